"""A decoder as Cells: one step over T tokens of any sequences, through the paged cache.

Shapes: T tokens, D head_dim, R rows of block_table, M blocks a row, N logits wanted. Parameters carry Hugging Face's
names. The layers are plain (plain_layers.py), or fused into a few operators of the CPU (fused_layers.py).
"""

from collections.abc import Callable
from dataclasses import fields

import mindspore as ms
from mindspore import Tensor, nn

from mindspore_paged.errors import ConfigError
from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.formats.weight_place import WeightPlace
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.fused_layers import FusedLayers
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.parallel import ONE_RANK
from mindspore_paged.models.plain_layers import PlainLayers
from mindspore_paged.models.rope import rope_tables
from mindspore_paged.models.whole_step import PackedLayers
from mindspore_paged.tensor_parallel import WHOLE


class DecoderModel(nn.Cell):
    """Embedding, decoder layers and the final norm: their tensors, for whoever computes a step with them."""

    def __init__(self, parts, num_layers: int, share_layers: bool):
        super().__init__()
        self.embed_tokens = parts.embedding()
        self.norm = parts.norm()
        self.layers = parts.layers(num_layers, share_layers)


class Decoder(nn.Cell):
    """One step of a model over T tokens, whatever mixture of prefill and decode they are.

    config: dimensions; kv_pool: pages and block_table that the step reads and writes in place;
    num_positions: rows of the rotary table (max_model_len); dtype: of weights and activations;
    share_layers: all layers have the weights of one, for compiling a graph whose own would not fit in memory.
    parallel, ranks: which part of the model this rank has, and how the ranks exchange what they computed; kv_pool has
    the KV heads of that part.
    formats: how a weight of each name is held. With it the layers are fused, for the backend cpu and dtype float32.

    Calling it: input_ids, positions, rows int32 [T] (padding: row -1); logit_indices int32 [N], tokens whose logits are
    wanted (padding: -1); table_indices int32 [U, 2] and table_values int32 [U], entries of block_table to write before
    anything else. Returns logits float32 [N, vocab_size].
    """

    def __init__(
        self, config: ModelConfig, kv_pool: KVPages, num_positions, dtype=ms.float32, ops_backend="cpu",
        share_layers=False, parallel=WHOLE, ranks=ONE_RANK, formats: Callable[[str], WeightFormat] | None = None,
    ):  # fmt: skip
        super().__init__()
        _check_options(config)
        share, vocab = parallel.share(config), parallel.vocab(config)
        if formats is None:
            parts = PlainLayers(share, vocab, dtype, ops_backend, ranks)
        else:
            parts = FusedLayers(share, vocab, formats, ops_backend, ranks)
        self.format_of, self.arranged = parts.format_of, parts.arranged
        self.model = DecoderModel(parts, config.num_hidden_layers, share_layers)
        head = self.model.embed_tokens
        if not config.tie_word_embeddings:
            self.lm_head = head = parts.lm_head()
        cos, sin = rope_tables(config, num_positions)
        self.step = parts.step(self.model, head, kv_pool, Tensor(cos[:, None], dtype), Tensor(sin[:, None], dtype))
        # MindSpore has put the name of each Cell that took it before that of a Parameter.
        kv_pool.block_table.name = "block_table"
        for name, place in self.weight_places().items():
            place.parameter.name = name if place.is_alone else place.parameter.name.rpartition(".")[2]

    def weight_places(self) -> dict[str, WeightPlace]:
        """Where each weight is that a checkpoint must provide, by Hugging Face's names."""
        weights = [item for item in self.parameters_and_names() if item[0].endswith((".weight", ".bias"))]
        places = {name: WeightPlace(weight, self.format_of(name), tuple(weight.shape)) for name, weight in weights}
        layers = self.model.layers
        return places | (layers.weight_places() if isinstance(layers, PackedLayers) else {})

    @property
    def compile_phase(self):
        """The graph that is compiled or run, by MindSpore's name."""
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, phase):
        # MindSpore sets it at every call, and its own setter tells each of the hundreds of Cells below, which takes
        # milliseconds; only that of the whole is read.
        self._compile_phase = phase

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        return self.step(input_ids, positions, rows, logit_indices, table_indices, table_values)


def _check_options(config: ModelConfig) -> None:
    """Raise ConfigError for what a model may be described as, and no execution computes yet."""
    usual = {field.name: field.default for field in fields(ModelConfig)}
    first = next(index for index, name in enumerate(usual) if name == "hidden_act")
    for name in list(usual)[first:]:
        if getattr(config, name) != usual[name]:
            raise ConfigError(
                f"model: {name} is {getattr(config, name)}, which is not computed; allowed: {usual[name]}"
            )
