"""The layers of a LLaMA from few, large operators of the CPU (`custom_ops.layer_ops`), with weights of any format.

All decoder layers are one operator: MindSpore takes some 20 us to start an operator, and a small model's step would be
made of that. Where ranks share the model, a layer is two, one with all of attention, one with all of SwiGLU: the ranks
exchange what each of them computed. Activations are float32. The plain layers, with equal names of Parameters, are the
reference.

Shapes: T tokens, H query heads, D head_dim, N logits wanted. The heads and widths are those of one rank.
"""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.common.initializer import Zero

from mindspore_paged.custom_ops.layer_ops import (
    AttentionLayer,
    DecoderLayers,
    Embedding,
    FeedForwardLayer,
    NormLinear,
)
from mindspore_paged.custom_ops.panels import arrange_panels
from mindspore_paged.custom_ops.targets import library_of
from mindspore_paged.formats.weight_format import FLOAT32, WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.parallel import ONE_RANK, VocabParallelLogits, weight_parameter
from mindspore_paged.models.plain_layers import LayersInTurn
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
        """How a weight is held; that of a norm is of floats always."""
        return FLOAT32 if "norm" in name else self._formats(name)

    def arranged(self, name: str, weight: np.ndarray) -> np.ndarray:
        """A weight in the order that the layers take: rows of a matrix in panels, whatever its format."""
        if weight.ndim == 1:
            return weight
        form = self.format_of(name)
        return arrange_panels(weight, form.kind, form.logical_shape(weight.shape)[1], self._library)

    def held(self, name: str, rows: int, columns: int) -> "HeldWeight":
        """The weight [rows, columns] called `name`."""
        return HeldWeight((rows, columns), self.format_of(f"{name}.weight"))

    def places(self, _kv_pool, cos_table, sin_table) -> nn.Cell:
        """block_table, positions, rows -> what a layer takes as `step`."""
        return FusedPlaces(cos_table, sin_table)

    def norm(self) -> nn.Cell:
        """The weight of a norm."""
        return HeldWeight((self.config.hidden_size,), FLOAT32)

    def embedding(self) -> nn.Cell:
        """ids [T] -> [T, hidden_size], with the table as `weight`."""
        return FusedEmbedding(self)

    def layer(self, index: int) -> nn.Cell:
        """A decoder layer, or what `stack` needs of it."""
        make = LayerWeights if self.ranks is ONE_RANK else FusedDecoderLayer
        return make(self, f"model.layers.{index}")

    def stack(self, layers: nn.CellList) -> nn.Cell:
        """All of them: x, key_caches, value_caches, step -> the last x."""
        return LayersAtOnce(self, layers) if self.ranks is ONE_RANK else LayersInTurn(layers)

    def lm_head(self) -> nn.Cell:
        """The head of a model whose embeddings are not tied, as `weight`."""
        return self.held("lm_head", self.vocab.length, self.config.hidden_size)

    def logits(self) -> nn.Cell:
        """hidden [N, hidden_size], weight of the last norm, weight of the head -> float32 [N, vocab_size]."""
        config = self.config
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        product = NormLinear(config.rms_norm_eps, self.format_of(head).kind, self.backend)
        return VocabParallelLogits(product, config.vocab_size, self.ranks)


class HeldWeight(nn.Cell):
    """A weight of `shape` as a Parameter in `form`, for operators that the layer calls."""

    def __init__(self, shape: tuple[int, ...], form: WeightFormat):
        super().__init__()
        self.weight = weight_parameter(*form.stored_shape(shape), dtype=getattr(ms, form.dtype.name))
        self.kind = form.kind


class FusedEmbedding(HeldWeight):
    """Token ids [T] -> rows of the table [T, hidden_size]."""

    def __init__(self, parts: FusedLayers):
        config, vocab = parts.config, parts.vocab
        super().__init__((vocab.length, config.hidden_size), parts.format_of("model.embed_tokens.weight"))
        self.like = Tensor(shape=(config.hidden_size,), dtype=ms.float32, init=Zero()).init_data()
        self.embedding = Embedding(self.kind, vocab.start, config.vocab_size, parts.backend)
        self.sum_over_ranks = parts.ranks.sum()

    def construct(self, input_ids):
        return self.sum_over_ranks(self.embedding(input_ids, self.weight, self.like))


class AttentionWeights(nn.Cell):
    """The projections of a layer's attention."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__()
        config = parts.config
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = parts.held(f"{name}.q_proj", query_size, config.hidden_size)
        self.k_proj = parts.held(f"{name}.k_proj", kv_size, config.hidden_size)
        self.v_proj = parts.held(f"{name}.v_proj", kv_size, config.hidden_size)
        self.o_proj = parts.held(f"{name}.o_proj", config.hidden_size, query_size)
        self.kinds = tuple(weight.kind for weight in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))

    def construct(self):
        return self.q_proj.weight, self.k_proj.weight, self.v_proj.weight, self.o_proj.weight


class MLPWeights(nn.Cell):
    """The projections of a layer's SwiGLU."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__()
        hidden_size, width = parts.config.hidden_size, parts.config.intermediate_size
        self.gate_proj = parts.held(f"{name}.gate_proj", width, hidden_size)
        self.up_proj = parts.held(f"{name}.up_proj", width, hidden_size)
        self.down_proj = parts.held(f"{name}.down_proj", hidden_size, width)
        self.kinds = tuple(weight.kind for weight in (self.gate_proj, self.up_proj, self.down_proj))

    def construct(self):
        return self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight


class LayerWeights(nn.Cell):
    """A layer's tensors, in the order of `layer_ops.DecoderLayers`."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = parts.norm(), parts.norm()
        self.self_attn = AttentionWeights(parts, f"{name}.self_attn")
        self.mlp = MLPWeights(parts, f"{name}.mlp")
        self.kinds = (self.self_attn.kinds, self.mlp.kinds)

    def construct(self, key_cache, value_cache):
        attention = (self.input_layernorm.weight, *self.self_attn(), key_cache, value_cache)
        return (*attention, self.post_attention_layernorm.weight, *self.mlp())


class LayersAtOnce(nn.Cell):
    """All decoder layers in one operator."""

    def __init__(self, parts: FusedLayers, layers: nn.CellList):
        super().__init__()
        config = parts.config
        self.layers = layers
        kinds = [layer.kinds for layer in layers]
        self.decode = DecoderLayers(config.rms_norm_eps, config.head_dim**-0.5, kinds, parts.backend)

    def construct(self, x, key_caches, value_caches, step):
        tensors = ()
        for layer, key_cache, value_cache in zip(self.layers, key_caches, value_caches):  # noqa: B905
            tensors += layer(key_cache, value_cache)
        return self.decode(x, *step, tensors)


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


class FusedAttention(AttentionWeights):
    """x + attention(norm(x)) over the sequence's pages; this step's keys and values are written first."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__(parts, name)
        config = parts.config
        self.attend = AttentionLayer(config.rms_norm_eps, config.head_dim**-0.5, self.kinds, False, parts.backend)
        self.sum_over_ranks = parts.ranks.sum()

    def construct(self, x, norm_weight, key_cache, value_cache, step):
        cos_table, sin_table, block_table, positions, rows = step
        attended = self.attend(
            x, norm_weight, self.q_proj.weight, self.k_proj.weight, self.v_proj.weight, self.o_proj.weight, cos_table,
            sin_table, key_cache, value_cache, block_table, positions, rows,
        )  # fmt: skip
        return x + self.sum_over_ranks(attended)


class FusedMLP(MLPWeights):
    """x + down(silu(gate(norm(x))) * up(norm(x))) (Shazeer 2020)."""

    def __init__(self, parts: FusedLayers, name: str):
        super().__init__(parts, name)
        self.feed_forward = FeedForwardLayer(parts.config.rms_norm_eps, self.kinds, False, parts.backend)
        self.sum_over_ranks = parts.ranks.sum()

    def construct(self, x, norm_weight):
        computed = self.feed_forward(x, norm_weight, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
        return x + self.sum_over_ranks(computed)


class FusedPlaces(nn.Cell):
    """What the layers need to know of the tokens' places: they look the rest up themselves."""

    def __init__(self, cos_table, sin_table):
        super().__init__()
        self.cos_table, self.sin_table = cos_table, sin_table

    def construct(self, block_table, positions, rows):
        return self.cos_table, self.sin_table, block_table, positions, rows
