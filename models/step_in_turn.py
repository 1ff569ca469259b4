"""A step as many operators one after the other: the plain layers' on any backend, and that of a rank among several."""

from collections.abc import Callable

from mindspore import ParameterTuple, nn, ops


class StepInTurn(nn.Cell):
    """Entries of block_table, embedding, layers, head: called as `Decoder` is.

    model: the tensors, as Cells that compute with them; head: the Cell that has the head's `weight`; places:
    block_table, positions, rows -> what a layer takes as `step`; logits: hidden [N, hidden_size], weight of the last
    norm, weight of the head -> float32 [N, vocab_size].
    """

    def __init__(self, model: nn.Cell, head: nn.Cell, kv_pool, places: nn.Cell, logits: nn.Cell):
        super().__init__()
        self.model, self.head, self.places, self.logits = model, head, places, logits
        self.layers = LayersInTurn(model.layers)
        self.block_table = kv_pool.block_table
        self.key_caches, self.value_caches = ParameterTuple(kv_pool.key_caches), ParameterTuple(kv_pool.value_caches)
        self.gather = ops.Gather()
        self.write_table = ops.ScatterNdUpdate()

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        block_table = ops.depend(self.block_table, self.write_table(self.block_table, table_indices, table_values))
        step = self.places(block_table, positions, rows)
        x = self.layers(self.model.embed_tokens(input_ids), self.key_caches, self.value_caches, step)
        wanted = ops.maximum(logit_indices, 0)  # padding, -1, is computed as some token: nobody looks at it
        return self.logits(self.gather(x, wanted, 0), self.model.norm.weight, self.head.weight)


def list_of_layers(make: Callable[[int], nn.Cell], num_layers: int, share: bool) -> nn.CellList:
    """A layer for each index, or the first in the place of all."""
    return nn.CellList([make(0)] * num_layers if share else [make(index) for index in range(num_layers)])


class LayersInTurn(nn.Cell):
    """Decoder layers, each with its own caches."""

    def __init__(self, layers: nn.CellList):
        super().__init__()
        self.layers = layers

    def construct(self, x, key_caches, value_caches, step):
        for layer, key_cache, value_cache in zip(self.layers, key_caches, value_caches):  # noqa: B905
            x = layer(x, key_cache, value_cache, step)
        return x
