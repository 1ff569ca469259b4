"""A layer in nine launches on Ascend, where each costs as much as megabytes of weights.

    h      = norm(x += fed)              fused_add_rms_norm, fed being what the layer before gave
    q      = rope(norm(h Wqkv^T))        one product; rope_and_cache, which stores keys and values
    h      = norm(x += attended Wo^T)    paged_attention, one product, fused_add_rms_norm
    fed    = (act(g) * u) Wdown^T        one product with gate and up together, act_and_mul, one product

x, the residual stream, is one tensor that every layer writes in place: each sum needs what was made of the one before,
so there is one order. It is the mathematics of `models.decoder`, with float32 between the products.

Shapes: T tokens, N logits wanted, D head_dim, P positions, R numbers of a head that are rotated. Heads and widths are
those of one rank.
"""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_paged.custom_ops.ascend_layer_ops import ActAndMul, FusedAddRmsNorm, RopeAndCache
from mindspore_paged.custom_ops.ops import PagedAttention
from mindspore_paged.models.decoder import Decoder, Linear, Positions, scaled
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.model_weights import ModelWeights, head_role
from mindspore_paged.models.parallel import VocabParallelEmbedding, VocabParallelLogits


class AscendLayers(Decoder):
    """The step of `models.decoder` over layers that add what the layer before gave.

    layers: x, fed, key_cache, value_cache, step -> fed. last_norm: that of the model. head: without a norm.
    `wanted_tokens` is what goes into the head: behind the last norm.
    """

    def __init__(
        self, weights: ModelWeights, kv_pages: KVPages, embed_tokens, positions, layers: list, last_norm, head
    ):  # fmt: skip
        super().__init__(weights.config, kv_pages, embed_tokens, positions, layers, head)
        self.last_norm = last_norm

    def wanted_tokens(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters):
        """The tokens of `logit_indices` behind the last norm, [N, hidden_size]."""
        block_table = ops.depend(self.block_table, self.write_table(self.block_table, table_indices, table_values))
        step = self.positions(block_table, positions, rows, adapters)
        x = scaled(self.embed_tokens(input_ids), self.embedding_scale)
        fed = x  # the first layer adds nothing
        for layer, key_cache, value_cache in zip(self.layers, self.key_caches, self.value_caches):  # noqa: B905
            fed = layer(x, fed, key_cache, value_cache, step)
        wanted = ops.maximum(logit_indices, 0)  # padding, -1, is computed as some token: nobody looks at it
        x = ops.depend(x, fed)  # all layers have added to it
        return self.last_norm(self.gather(x, wanted, 0), self.gather(fed, wanted, 0))


class AscendHidden(nn.Cell):
    """`of` without its head, over its Parameters: the tokens wanted behind the last norm, float32 [N, hidden_size]."""

    def __init__(self, of: AscendLayers):
        super().__init__()
        self.of = of
        self.cast = ops.Cast()

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters=None):
        x = self.of.wanted_tokens(input_ids, positions, rows, logit_indices, table_indices, table_values, adapters)
        return self.cast(x, ms.float32)


class AscendLayer(nn.Cell):
    """Adds what the layer before gave to x, then attention's output, and gives that of the MLP.

    blank: what operators take in the place of weights that the model lacks.
    """

    def __init__(self, weights: ModelWeights, layer: int, ops_backend, ranks, blank: "Blank"):
        super().__init__()
        config = weights.config
        self.width = config.num_attention_heads * config.head_dim
        self.rope_table = max(0, config.rope_table_of(layer))
        self.attention_norm = AddAndNorm(weights, layer, "attention_norm", "mlp_output_norm", ops_backend)
        self.qkv = Linear(weights.together(layer, "qkv"))
        bias = weights.together(layer, ("q_bias", "k_bias", "v_bias"))
        norms = weights.together(layer, ("q_norm", "k_norm"), stacked=True)
        self.qkv_bias = blank.vector(self.qkv.weight.shape[0]) if bias is None else bias
        self.head_norms = blank.matrix(2, config.head_dim) if norms is None else norms
        rotates = config.rope_table_of(layer) >= 0
        self.rope_and_cache = RopeAndCache(
            config.rms_norm_eps, bias is not None, norms is not None, rotates, ops_backend
        )
        self.paged_attention = PagedAttention(config.score_scale, ops_backend, config.window_of(layer))
        self.o_proj = Linear(weights.of_layer(layer, "o"), weights.of_layer(layer, "o_bias"))
        self.mlp_norm = AddAndNorm(weights, layer, "mlp_norm", "attention_output_norm", ops_backend)
        self.gate_up = Linear(weights.together(layer, ("gate", "up")))
        bias = weights.together(layer, ("gate_bias", "up_bias"))
        self.gate_up_bias = blank.vector(self.gate_up.weight.shape[0]) if bias is None else bias
        self.act_and_mul = ActAndMul(config.hidden_act, bias is not None, ops_backend)
        self.down_proj = Linear(weights.of_layer(layer, "down"), weights.of_layer(layer, "down_bias"))
        self.sum_over_ranks = ranks.sum()

    def construct(self, x, fed, key_cache, value_cache, step):
        attended = self.sum_over_ranks(self.attend(x, fed, key_cache, value_cache, step))
        return self.sum_over_ranks(self.feed_forward(x, attended))

    def attend(self, x, fed, key_cache, value_cache, step):
        """x += fed; this rank's part of what attention gives."""
        rotations, slots, block_table, rows, context_lens = step
        qkv = self.qkv(self.attention_norm(x, fed))
        rotation = rotations[self.rope_table]
        query = self.rope_and_cache(qkv, self.qkv_bias, self.head_norms, rotation, key_cache, value_cache, slots)
        attended = self.paged_attention(query, key_cache, value_cache, block_table, rows, context_lens)
        return self.o_proj(attended.reshape(-1, self.width))

    def feed_forward(self, x, attended):
        """x += attended; this rank's part of what the MLP gives."""
        gated = self.act_and_mul(self.gate_up(self.mlp_norm(x, attended)), self.gate_up_bias)
        return self.down_proj(gated)


class AddAndNorm(nn.Cell):
    """norm(x += what a half of a layer gave): of a layer's `role`, behind that half's `role_of_added`; or the model's.

    layer: None for the norm behind the last one. Before attention it is the MLP of the layer before that gave it;
    before the first layer's there is nothing to add, and x is normed as it is.
    """

    def __init__(self, weights: ModelWeights, layer: int | None, role: str, role_of_added: str, ops_backend):
        super().__init__()
        config = weights.config
        self.weight = weights.of_model(role) if layer is None else weights.of_layer(layer, role)
        giver = config.num_hidden_layers if layer is None else layer
        giver -= role_of_added == "mlp_output_norm"
        adds = giver >= 0
        output_norm = weights.of_layer(giver, role_of_added) if adds else None
        self.weight_of_added = self.weight if output_norm is None else output_norm
        self.norm = FusedAddRmsNorm(
            config.rms_norm_eps,
            ops_backend,
            adds=adds,
            norms_added=output_norm is not None,
            residual_scale=config.residual_scale,
        )

    def construct(self, x, added):
        return self.norm(x, added, self.weight_of_added, self.weight)


class AscendPositions(Positions):
    """The tokens' rotations by each table, their slots in the pages, and how many tokens they attend to.

    tables: cosines and sines as `rope.rope_table` gives them, [P, R] each, of equal halves.
    """

    def __init__(self, kv_pages: KVPages, tables: list[tuple[np.ndarray, np.ndarray]]):
        super().__init__(kv_pages, [])
        half = tables[0][0].shape[1] // 2
        self.halves = tuple(Tensor(np.concatenate([cos[:, :half], sin[:, :half]], axis=1)) for cos, sin in tables)

    def construct(self, block_table, positions, rows, _adapters):
        rotations = ()
        for halves in self.halves:
            rotations += (self.gather(halves, positions, 0),)
        slots = self.slots(block_table, positions, rows)
        context_lens = ops.select(rows < 0, ops.zeros_like(positions), positions + 1)
        return rotations, slots, block_table, rows, context_lens


class Blank:
    """Zeros of the model's type, one tensor of a shape for all layers."""

    def __init__(self, dtype):
        self._dtype, self._made = dtype, {}

    def vector(self, length: int) -> Tensor:
        """Of so many numbers."""
        return self.matrix(length)

    def matrix(self, *shape: int) -> Tensor:
        """Of this shape."""
        if shape not in self._made:
            self._made[shape] = Tensor(np.zeros(shape, np.float32), self._dtype)
        return self._made[shape]


def ascend_layers(weights: ModelWeights, vocab, kv_pages: KVPages, tables, ops_backend, ranks) -> AscendLayers:
    """The execution of the backends `ascend` and `ascend_emulator`; weights: all of one type of floats."""
    config = weights.config
    table, head = weights.of_model("embedding"), weights.of_model(head_role(config))
    blank = Blank(table.dtype)
    layers = _layers(weights, lambda layer: AscendLayer(weights, layer, ops_backend, ranks, blank))
    return AscendLayers(
        weights,
        kv_pages,
        VocabParallelEmbedding(table, vocab, config.vocab_size, ranks),
        AscendPositions(kv_pages, tables),
        layers,
        AddAndNorm(weights, None, "final_norm", "mlp_output_norm", ops_backend),
        VocabParallelLogits(Linear(head), config.vocab_size, ranks),
    )


def _layers(weights: ModelWeights, make: Callable[[int], nn.Cell]) -> list[nn.Cell]:
    """A Cell for each layer; where they share their weights, one for all that are alike: the first adds nothing."""
    config, made, layers = weights.config, {}, []
    for layer in range(config.num_hidden_layers):
        kind = (config.window_of(layer), config.rope_table_of(layer), layer == 0) if weights.share_layers else layer
        if kind not in made:
            made[kind] = make(layer)
        layers.append(made[kind])
    return layers
