"""The layers of a LLaMA from few, large operators of the CPU (`custom_ops.layer_ops`), with weights of any format.

The whole step is one operator (whole_step.py): MindSpore takes some 20 us to start an operator, and a small model's
step would be made of that. Where ranks share the model, a layer is two, one with all of attention, one with all of
SwiGLU: the ranks exchange what each of them computed. Activations are float32. The plain layers, with equal names of
weights, are the reference.

Shapes: T tokens, H query heads, D head_dim, N logits wanted. The heads and widths are those of one rank.
"""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore.common.initializer import Zero

from mindspore_paged.custom_ops.layer_ops import (
    AttentionLayer,
    Embedding,
    FeedForwardLayer,
    NormLinear,
)
from mindspore_paged.custom_ops.panels import arrange_panels
from mindspore_paged.custom_ops.targets import library_of
from mindspore_paged.formats.weight_format import FLOAT32, WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.parallel import ONE_RANK, VocabParallelLogits, weight_parameter
from mindspore_paged.models.step_in_turn import StepInTurn, list_of_layers
from mindspore_paged.models.whole_step import LAYER_NAMES, PackedLayers, WholeStep
from mindspore_paged.tensor_parallel import Cut


class FusedLayers:
    """Makes the parts of a model whose weight of each name is held as `formats(name)` says.

    config: one rank's share; vocab: its rows of the vocabulary; ranks: how ranks exchange what they computed.
    """

    def __init__(self, config: ModelConfig, vocab: Cut, formats: Callable[[str], WeightFormat], ops_backend, ranks):
        self.config, self.vocab, self.backend, self.ranks = config, vocab, ops_backend, ranks
        self._formats = formats
        self._library = library_of(ops_backend)

    def format_of(self, name: str) -> WeightFormat:
        """How a weight is held; that of a norm, and a bias, is of floats always."""
        return FLOAT32 if "norm" in name or name.endswith(".bias") else self._formats(name)

    def arranged(self, name: str, weight: np.ndarray, library: Path | None = None) -> np.ndarray:
        """A weight in the order that the layers take: rows of a matrix in panels, whatever its format.

        library: compiled operators that will read it, each CPU's in an order of their own; default: those used here.
        """
        if weight.ndim == 1:
            return weight
        form = self.format_of(name)
        return arrange_panels(weight, form.kind, form.logical_shape(weight.shape)[1], library or self._library)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of a weight of this rank, [outputs, inputs], or [outputs] of a bias, or [inputs] of a norm."""
        hidden, cell = self.config.hidden_size, name.split(".")[-2]
        if "norm" in cell:
            return (hidden,)
        if cell in ("embed_tokens", "lm_head"):
            return self.vocab.length, hidden
        outputs, inputs = self.config.projection_shape(cell)
        return (outputs,) if name.endswith(".bias") else (outputs, inputs)

    def has(self, name: str) -> bool:
        """Whether the model has the weight called `name`: a bias may be lacking, and a LLaMA has two norms a layer."""
        cell = name.split(".")[-2]
        return self.config.has_bias(cell) if name.endswith(".bias") else not cell.endswith("_norm")

    def held(self, name: str) -> "HeldWeight":
        """The weight that the Cell called `name` has, and its bias if there is one."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        bias_rows = self.shape_of(bias)[0] if self.has(bias) else None
        return HeldWeight(self.shape_of(weight), self.format_of(weight), bias_rows)

    def norm(self) -> nn.Cell:
        """The weight of a norm."""
        return self.held("model.norm")

    def embedding(self) -> nn.Cell:
        """The table as `weight`; among several ranks called with ids [T] -> [T, hidden_size]."""
        return self.held("model.embed_tokens") if self.ranks is ONE_RANK else FusedEmbedding(self)

    def layers(self, num_layers: int, share: bool) -> nn.Cell:
        """The decoder layers, or their weights alone; all have those of the first if they `share` them."""
        if self.ranks is not ONE_RANK:
            return list_of_layers(lambda index: FusedDecoderLayer(self, f"model.layers.{index}"), num_layers, share)
        own = range(1 if share else num_layers)
        names = [[f"model.layers.{index}.{part}" for part in LAYER_NAMES.values()] for index in own]
        held = [
            [(self.format_of(name), self.shape_of(name)) if self.has(name) else None for name in layer]
            for layer in names
        ]
        return PackedLayers(held, num_layers)

    def lm_head(self) -> nn.Cell:
        """The head of a model whose embeddings are not tied, as `weight`."""
        return self.held("lm_head")

    def step(self, model: nn.Cell, head: nn.Cell, kv_pool: KVPages, cos_table, sin_table) -> nn.Cell:
        """What computes a step over the tensors of `model` and `head`."""
        epsilon, scale = self.config.rms_norm_eps, self.config.head_dim**-0.5
        cos_tables, sin_tables = (Tensor(table.asnumpy()[None]) for table in (cos_table, sin_table))
        if self.ranks is ONE_RANK:
            return WholeStep(model, head, kv_pool, cos_tables, sin_tables, epsilon, scale, self.backend)
        product = NormLinear(epsilon, head.kind, self.backend)
        logits = VocabParallelLogits(product, self.config.vocab_size, self.ranks)
        return StepInTurn(model, head, kv_pool, FusedPlaces(cos_tables, sin_tables), logits)


class HeldWeight(nn.Cell):
    """A weight of `shape` as a Parameter in `form`, for operators that the layer calls; its bias [bias_rows] too."""

    def __init__(self, shape: tuple[int, ...], form: WeightFormat, bias_rows: int | None = None):
        super().__init__()
        self.weight = weight_parameter(*form.stored_shape(shape), dtype=getattr(ms, form.dtype.name))
        self.bias = None if bias_rows is None else weight_parameter(bias_rows, dtype=ms.float32)
        self.kind = form.kind


def biases_of(held: list[HeldWeight]) -> tuple:
    """The biases that there are, in the order of the weights."""
    biases = [weight.bias for weight in held if weight.bias is not None]
    return ParameterTuple(biases) if biases else ()


class FusedEmbedding(HeldWeight):
    """Token ids [T] -> rows of the table [T, hidden_size]."""

    def __init__(self, parts: FusedLayers):
        config, vocab, name = parts.config, parts.vocab, "model.embed_tokens.weight"
        super().__init__(parts.shape_of(name), parts.format_of(name))
        self.like = Tensor(shape=(config.hidden_size,), dtype=ms.float32, init=Zero()).init_data()
        self.embedding = Embedding(self.kind, vocab.start, config.vocab_size, parts.backend)
        self.sum_over_ranks = parts.ranks.sum()

    def construct(self, input_ids):
        return self.sum_over_ranks(self.embedding(input_ids, self.weight, self.like))


class FusedDecoderLayer(nn.Cell):
    """Attention, then SwiGLU, each with its norm and its residual."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = parts.norm(), parts.norm()
        self.self_attn = FusedAttention(parts, f"{name}.self_attn")
        self.mlp = FusedMLP(parts, f"{name}.mlp")

    def construct(self, x, key_cache, value_cache, step):
        x = self.self_attn(x, self.input_layernorm.weight, key_cache, value_cache, step)
        return self.mlp(x, self.post_attention_layernorm.weight)


class FusedAttention(nn.Cell):
    """x + attention(norm(x)) over the sequence's pages; this step's keys and values are written first."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__()
        config = parts.config
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = held = [
            parts.held(f"{name}.{projection}") for projection in ("q_proj", "k_proj", "v_proj", "o_proj")
        ]
        kinds, has_bias = [weight.kind for weight in held], [weight.bias is not None for weight in held]
        self.biases = biases_of(held)
        has_optional = [*has_bias, False, False]  # no norms of heads
        self.attend = AttentionLayer(
            config.rms_norm_eps, config.head_dim**-0.5, kinds, has_optional, False, parts.backend
        )
        self.sum_over_ranks = parts.ranks.sum()

    def construct(self, x, norm_weight, key_cache, value_cache, step):
        cos_tables, sin_tables, block_table, positions, rows = step
        attended = self.attend(
            x, norm_weight, self.q_proj.weight, self.k_proj.weight, self.v_proj.weight, self.o_proj.weight,
            cos_tables, sin_tables, key_cache, value_cache, block_table, positions, rows, self.biases,
        )  # fmt: skip
        return x + self.sum_over_ranks(attended)


class FusedMLP(nn.Cell):
    """x + down(silu(gate(norm(x))) * up(norm(x))) (Shazeer 2020)."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = held = [
            parts.held(f"{name}.{projection}") for projection in ("gate_proj", "up_proj", "down_proj")
        ]
        kinds, has_bias = [weight.kind for weight in held], [weight.bias is not None for weight in held]
        self.biases = biases_of(held)
        self.feed_forward = FeedForwardLayer(parts.config.rms_norm_eps, kinds, has_bias, False, parts.backend)
        self.sum_over_ranks = parts.ranks.sum()

    def construct(self, x, norm_weight):
        weights = self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight
        computed = self.feed_forward(x, norm_weight, *weights, self.biases)
        return x + self.sum_over_ranks(computed)


class FusedPlaces(nn.Cell):
    """What the layers need to know of the tokens' places: they look the rest up themselves."""

    def __init__(self, cos_tables, sin_tables):
        super().__init__()
        self.cos_tables, self.sin_tables = cos_tables, sin_tables

    def construct(self, block_table, positions, rows):
        return self.cos_tables, self.sin_tables, block_table, positions, rows
