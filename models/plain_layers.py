"""The layers of a LLaMA from MindSpore's operators and those of `custom_ops.ops`: for any backend, and the reference.

Shapes: T tokens, H query heads, K KV heads, D head_dim, N logits wanted. The heads and widths are those of one rank.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindspore_paged.custom_ops.ops import PagedAttention, ReshapeAndCache
from mindspore_paged.formats.weight_format import BF16, FLOAT16, FLOAT32, WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    VocabParallelLogits,
    weight_parameter,
)
from mindspore_paged.models.step_in_turn import StepInTurn, list_of_layers
from mindspore_paged.tensor_parallel import Cut


class PlainLayers:
    """Makes the parts of a model whose weights and activations are of `dtype`.

    config: one rank's share; vocab: its rows of the vocabulary; ranks: how ranks exchange what they computed.
    """

    def __init__(self, config: ModelConfig, vocab: Cut, dtype, ops_backend, ranks):
        self._config, self._vocab, self._dtype = config, vocab, dtype
        self._backend, self._ranks = ops_backend, ranks
        self._format = {ms.float32: FLOAT32, ms.float16: FLOAT16, ms.bfloat16: BF16}[dtype]

    def format_of(self, _name: str) -> WeightFormat:
        """How a weight is held."""
        return self._format

    def arranged(self, _name: str, weight: np.ndarray, _library: Path | None = None) -> np.ndarray:
        """A weight in the order that the layers take: that of a checkpoint."""
        return weight

    def embedding(self) -> nn.Cell:
        """ids [T] -> [T, hidden_size], with the table as `weight`."""
        config = self._config
        return VocabParallelEmbedding(self._vocab, config.vocab_size, config.hidden_size, self._dtype, self._ranks)

    def layers(self, num_layers: int, share: bool) -> nn.CellList:
        """The decoder layers; all are the first if they `share` its weights."""
        config, dtype, backend, ranks = self._config, self._dtype, self._backend, self._ranks
        return list_of_layers(lambda _: LlamaDecoderLayer(config, dtype, backend, ranks), num_layers, share)

    def norm(self) -> nn.Cell:
        """The last norm, as `weight`."""
        return RMSNorm(self._config.hidden_size, self._config.rms_norm_eps, self._dtype)

    def lm_head(self) -> nn.Cell:
        """The head of a model whose embeddings are not tied, as `weight`."""
        return ColumnParallelLinear(self._config.hidden_size, self._vocab.length, self._dtype)

    def step(self, model: nn.Cell, head: nn.Cell, kv_pool: KVPages, cos_table, sin_table) -> nn.Cell:
        """What computes a step over the tensors of `model` and `head`."""
        places = PlainPlaces(kv_pool, cos_table, sin_table)
        logits = VocabParallelLogits(NormMatMul(self.norm()), self._config.vocab_size, self._ranks)
        return StepInTurn(model, head, kv_pool, places, logits)


class RMSNorm(nn.Cell):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019); the mean in float32."""

    def __init__(self, hidden_size, eps, dtype):
        super().__init__()
        self.weight = weight_parameter(hidden_size, dtype=dtype)
        self.eps = eps
        self.dtype = dtype
        self.mean = ops.ReduceMean(keep_dims=True)
        self.cast = ops.Cast()

    def construct(self, x):
        return self.normalize(x, self.weight)

    def normalize(self, x, weight):
        """With a weight from elsewhere."""
        wide = self.cast(x, ms.float32)
        scale = ops.rsqrt(self.mean(wide * wide, -1) + self.eps)
        return self.cast(wide * scale, self.dtype) * weight


class LlamaAttention(nn.Cell):
    """Grouped-query attention over the sequence's pages; this step's keys and values are written first."""

    def __init__(self, config: ModelConfig, dtype, ops_backend, ranks):
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        query_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = ColumnParallelLinear(config.hidden_size, query_size, dtype, config.has_bias("q_proj"))
        self.k_proj = ColumnParallelLinear(config.hidden_size, kv_size, dtype, config.has_bias("k_proj"))
        self.v_proj = ColumnParallelLinear(config.hidden_size, kv_size, dtype, config.has_bias("v_proj"))
        self.o_proj = RowParallelLinear(query_size, config.hidden_size, dtype, ranks, config.has_bias("o_proj"))
        self.reshape_and_cache = ReshapeAndCache(ops_backend)
        self.paged_attention = PagedAttention(self.head_dim**-0.5, ops_backend)
        self.split_halves = ops.Split(axis=-1, output_num=2)
        self.concat = ops.Concat(axis=-1)

    def construct(self, x, key_cache, value_cache, step):
        cos, sin, slot_mapping, block_table, rows, context_lens = step
        query = self.rotate(self.q_proj(x).reshape(-1, self.num_heads, self.head_dim), cos, sin)
        key = self.rotate(self.k_proj(x).reshape(-1, self.num_kv_heads, self.head_dim), cos, sin)
        value = self.v_proj(x).reshape(-1, self.num_kv_heads, self.head_dim)
        written = self.reshape_and_cache(key, value, key_cache, value_cache, slot_mapping)
        query = ops.depend(query, written)
        attended = self.paged_attention(query, key_cache, value_cache, block_table, rows, context_lens)
        return self.o_proj(attended.reshape(-1, self.num_heads * self.head_dim))

    def rotate(self, heads, cos, sin):
        """Rotary position embedding on [T, heads, D], in rotate-half order."""
        first, second = self.split_halves(heads)
        return heads * cos + self.concat((-second, first)) * sin


class LlamaMLP(nn.Cell):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, dtype, ranks):
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size
        self.gate_proj = ColumnParallelLinear(hidden, width, dtype, config.has_bias("gate_proj"))
        self.up_proj = ColumnParallelLinear(hidden, width, dtype, config.has_bias("up_proj"))
        self.down_proj = RowParallelLinear(width, hidden, dtype, ranks, config.has_bias("down_proj"))

    def construct(self, x):
        return self.down_proj(ops.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaDecoderLayer(nn.Cell):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, dtype, ops_backend, ranks):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = LlamaAttention(config, dtype, ops_backend, ranks)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = LlamaMLP(config, dtype, ranks)

    def construct(self, x, key_cache, value_cache, step):
        x = x + self.self_attn(self.input_layernorm(x), key_cache, value_cache, step)
        return x + self.mlp(self.post_attention_layernorm(x))


class PlainPlaces(nn.Cell):
    """The tokens' rotations, slots in the pages and context lengths."""

    def __init__(self, kv_pool: KVPages, cos_table, sin_table):
        super().__init__()
        self.cos_table, self.sin_table = cos_table, sin_table
        self.block_size = kv_pool.block_size
        self.blocks_per_row = kv_pool.block_table.shape[1]
        self.gather = ops.Gather()

    def construct(self, block_table, positions, rows):
        return (
            self.gather(self.cos_table, positions, 0),
            self.gather(self.sin_table, positions, 0),
            self.slots(block_table, positions, rows),
            block_table,
            rows,
            ops.select(rows < 0, ops.zeros_like(positions), positions + 1),
        )

    def slots(self, block_table, positions, rows):
        """Flat slot of each token in the pages, int32 [T]; -1 for padding, which is never written."""
        entries = ops.maximum(rows, 0) * self.blocks_per_row + positions // self.block_size
        blocks = self.gather(block_table.reshape(-1), entries, 0)
        return ops.select(rows < 0, ops.zeros_like(rows) - 1, blocks * self.block_size + positions % self.block_size)


class NormMatMul(nn.Cell):
    """norm(x) W^T, with weights that others own."""

    def __init__(self, norm: RMSNorm):
        super().__init__()
        self.normalize = norm.normalize
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x, norm_weight, weight):
        return self.matmul(self.normalize(x, norm_weight), weight)
