"""A decoder from token ids to logits, operator by operator: what every execution of a model computes.

    x = embedding(ids) * embedding_scale
    for each layer:
        x = x + output_norm(attention(norm(x))) * residual_scale
        x = x + output_norm(mlp(norm(x))) * residual_scale
    logits = norm(x) @ head * logit_scale

It is any backend's execution and the reference of the others (executions/), which take its place of attention and MLP,
or of all. Families differ by options of ModelConfig and by the weights that they have (spec.py): Vaswani et al. 2017;
Touvron et al. 2023, "LLaMA"; and the papers that the families' files name.

Shapes: T tokens, H query heads, K KV heads, D head_dim, N logits wanted, S rotary tables of P positions. Heads and
widths are those of one rank.
"""

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from mindspore_paged.custom_ops.ops import PagedAttention, ReshapeAndCache
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.adapter_slots import StackedAdapters
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.model_weights import ModelWeights


class Decoder(nn.Cell):
    """One step over T tokens of any sequences, whatever mixture of prefill and decode they are.

    embed_tokens: ids [T] -> [T, hidden_size]. positions: block_table, positions, rows, adapters -> what layers take as
    `step`. layers: x, key_cache, value_cache, step -> x. head: [N, hidden_size] -> logits float32 [N, vocab_size].
    Calling it: as StepInputs says. Returns logits float32 [N, vocab_size]. `wanted_tokens` is what goes into the head.
    """

    def __init__(self, config: ModelConfig, kv_pages: KVPages, embed_tokens, positions, layers: list, head):
        super().__init__()
        self.embed_tokens, self.positions, self.head = embed_tokens, positions, head
        self.layers = nn.CellList(layers)
        self.embedding_scale, self.logit_scale = config.embedding_scale, config.logit_scale
        self.block_table = kv_pages.block_table
        self.key_caches, self.value_caches = ParameterTuple(kv_pages.key_caches), ParameterTuple(kv_pages.value_caches)
        self.gather = ops.Gather()
        self.write_table = ops.ScatterNdUpdate()

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters=None):
        x = self.wanted_tokens(input_ids, positions, rows, logit_indices, table_indices, table_values, adapters)
        return scaled(self.head(x), self.logit_scale)

    def wanted_tokens(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters):
        """The tokens of `logit_indices` behind the last layer, [N, hidden_size]."""
        block_table = ops.depend(self.block_table, self.write_table(self.block_table, table_indices, table_values))
        step = self.positions(block_table, positions, rows, adapters)
        x = scaled(self.embed_tokens(input_ids), self.embedding_scale)
        for layer, key_cache, value_cache in zip(self.layers, self.key_caches, self.value_caches):  # noqa: B905
            x = layer(x, key_cache, value_cache, step)
        wanted = ops.maximum(logit_indices, 0)  # padding, -1, is computed as some token: nobody looks at it
        return self.gather(x, wanted, 0)


class DecoderHidden(nn.Cell):
    """`of` without its head, over its Parameters: the tokens wanted behind the last norm, float32 [N, hidden_size]."""

    def __init__(self, of: Decoder, weights: ModelWeights):
        super().__init__()
        self.of = of
        self.norm = RMSNorm(weights.of_model("final_norm"), weights.config.rms_norm_eps)
        self.cast = ops.Cast()

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters=None):
        x = self.of.wanted_tokens(input_ids, positions, rows, logit_indices, table_indices, table_values, adapters)
        return self.cast(self.norm(x), ms.float32)


class DecoderLayer(nn.Cell):
    """x + attention(norm(x)), then x + mlp(norm(x)); what is added is normed and scaled where the model does so."""

    def __init__(self, weights: ModelWeights, layer: int, ops_backend, ranks, adapters: StackedAdapters | None = None):
        super().__init__()
        config = weights.config
        self.attention = Attention(weights, layer, ops_backend, ranks, adapters)
        self.mlp = MLP(weights, layer, ranks, adapters)
        self.attention_norm, self.attention_output_norm, self.mlp_norm, self.mlp_output_norm = (
            norm_of_layer(weights, layer, role)
            for role in ("attention_norm", "attention_output_norm", "mlp_norm", "mlp_output_norm")
        )
        self.residual_scale = config.residual_scale

    def construct(self, x, key_cache, value_cache, step):
        attended = self.attention(self.attention_norm(x), key_cache, value_cache, step)
        x = x + scaled(self.attention_output_norm(attended), self.residual_scale)
        fed = self.mlp(self.mlp_norm(x), step[-1])
        return x + scaled(self.mlp_output_norm(fed), self.residual_scale)


class Attention(nn.Cell):
    """Grouped-query attention over the sequence's pages; this step's keys and values are written first."""

    def __init__(self, weights: ModelWeights, layer: int, ops_backend, ranks, adapters: StackedAdapters | None = None):
        super().__init__()
        config = weights.config
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (linear(weights, layer, role, adapters) for role in "qkvo")
        self.q_norm, self.k_norm = norm_of_layer(weights, layer, "q_norm"), norm_of_layer(weights, layer, "k_norm")
        self.rope_table = config.rope_table_of(layer)
        self.rotated = config.rotated
        self.reshape_and_cache = ReshapeAndCache(ops_backend)
        self.paged_attention = PagedAttention(config.score_scale, ops_backend, config.window_of(layer))
        self.sum_over_ranks = ranks.sum()
        self.split_halves = ops.Split(axis=-1, output_num=2)
        self.concat = ops.Concat(axis=-1)

    def construct(self, x, key_cache, value_cache, step):
        rotations, slot_mapping, block_table, rows, context_lens, adapters = step
        query = self.q_norm(self.q_proj(x, adapters).reshape(-1, self.num_heads, self.head_dim))
        key = self.k_norm(self.k_proj(x, adapters).reshape(-1, self.num_kv_heads, self.head_dim))
        value = self.v_proj(x, adapters).reshape(-1, self.num_kv_heads, self.head_dim)
        if self.rope_table >= 0:
            cos, sin = rotations[self.rope_table]
            query, key = self.rotate(query, cos, sin), self.rotate(key, cos, sin)
        written = self.reshape_and_cache(key, value, key_cache, value_cache, slot_mapping)
        query = ops.depend(query, written)
        attended = self.paged_attention(query, key_cache, value_cache, block_table, rows, context_lens)
        attended = attended.reshape(-1, self.num_heads * self.head_dim)
        return self.sum_over_ranks(self.o_proj(attended, adapters))

    def rotate(self, heads, cos, sin):
        """Rotary position embedding (Su et al. 2021) of [T, heads, D], in rotate-half order; of the first numbers."""
        rest = ()
        if self.rotated < self.head_dim:
            heads, rest = heads[..., : self.rotated], (heads[..., self.rotated :],)
        first, second = self.split_halves(heads)
        return self.concat((heads * cos + self.concat((-second, first)) * sin, *rest))


class MLP(nn.Cell):
    """down(act(gate(x)) * up(x)): SwiGLU or GeGLU (Shazeer 2020)."""

    def __init__(self, weights: ModelWeights, layer: int, ranks, adapters: StackedAdapters | None = None):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            linear(weights, layer, role, adapters) for role in ("gate", "up", "down")
        )
        self.is_silu = weights.config.hidden_act == "silu"
        self.sum_over_ranks = ranks.sum()

    def construct(self, x, adapters=()):
        gate = self.gate_proj(x, adapters)
        gate = ops.silu(gate) if self.is_silu else ops.gelu(gate, approximate="tanh")
        return self.sum_over_ranks(self.down_proj(gate * self.up_proj(x, adapters), adapters))


class Linear(nn.Cell):
    """x [T, in] -> x W^T [T, out], plus a bias if there is one."""

    def __init__(self, weight, bias=None):
        super().__init__()
        self.weight, self.bias = weight, bias
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x, _adapters=()):
        product = self.matmul(x, self.weight)
        return product if self.bias is None else product + self.bias


class AdaptedLinear(nn.Cell):
    """A projection, plus B (A x) of each token's adapter (Hu et al. 2021): those of all, of which it takes its own.

    down [S R, in], up [out, S R]: of S adapters of rank R. adapters [T, S R]: ones where a number is of the token's.
    """

    def __init__(self, projection: Linear, down, up):
        super().__init__()
        self.projection, self.down, self.up = projection, down, up
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x, adapters):
        return self.projection(x) + self.matmul(self.matmul(x, self.down) * adapters, self.up)


class RMSNorm(nn.Cell):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019); the mean in float32."""

    def __init__(self, weight, eps):
        super().__init__()
        self.weight, self.eps, self.dtype = weight, eps, weight.dtype
        self.mean = ops.ReduceMean(keep_dims=True)
        self.cast = ops.Cast()

    def construct(self, x):
        wide = self.cast(x, ms.float32)
        scale = ops.rsqrt(self.mean(wide * wide, -1) + self.eps)
        return self.cast(wide * scale, self.dtype) * self.weight


class Head(nn.Cell):
    """norm(x) W^T, [N, hidden_size] -> [N, rows of the vocabulary]."""

    def __init__(self, weights: ModelWeights, weight):
        super().__init__()
        self.norm = RMSNorm(weights.of_model("final_norm"), weights.config.rms_norm_eps)
        self.lm_head = Linear(weight)

    def construct(self, x):
        return self.lm_head(self.norm(x))


class Positions(nn.Cell):
    """The tokens' rotations by each table, their slots in the pages, how many tokens they attend to, and which of the
    numbers of all `adapters` are of their own: [T, S R] of dtype."""

    def __init__(
        self, kv_pages: KVPages, tables: list[tuple[Tensor, Tensor]], adapters: StackedAdapters | None = None,
        dtype=ms.float32,
    ):  # fmt: skip
        super().__init__()
        numbers = np.arange(adapters.room.number).repeat(adapters.room.rank) if adapters else [0]
        self.adapter_of_number, self.dtype = Tensor(numbers, ms.int32), dtype
        self.tables = tuple(tables)  # cosines and sines, each [P, 1, rotated]
        self.block_size = kv_pages.block_size
        self.blocks_per_row = kv_pages.block_table.shape[1]
        self.gather = ops.Gather()

    def construct(self, block_table, positions, rows, adapters=None):
        rotations = ()
        for cos, sin in self.tables:
            rotations += ((self.gather(cos, positions, 0), self.gather(sin, positions, 0)),)
        slots = self.slots(block_table, positions, rows)
        context_lens = ops.select(rows < 0, ops.zeros_like(positions), positions + 1)
        of_adapters = ()
        if adapters is not None:
            of_adapters = ops.cast(adapters.reshape(-1, 1) == self.adapter_of_number, self.dtype)
        return rotations, slots, block_table, rows, context_lens, of_adapters

    def slots(self, block_table, positions, rows):
        """Flat slot of each token in the pages, int32 [T]; -1 for padding, which is never written."""
        entries = ops.maximum(rows, 0) * self.blocks_per_row + positions // self.block_size
        blocks = self.gather(block_table.reshape(-1), entries, 0)
        return ops.select(rows < 0, ops.zeros_like(rows) - 1, blocks * self.block_size + positions % self.block_size)


def scaled(x, scale):
    """x times a number that is known when the graph is compiled; nothing is computed for 1."""
    return x if scale == 1.0 else x * scale


def linear(weights: ModelWeights, layer: int, role: str, adapters: StackedAdapters | None) -> nn.Cell:
    """A layer's projection, with adapters where there are any."""
    projection = Linear(weights.of_layer(layer, role), weights.of_layer(layer, f"{role}_bias"))
    return AdaptedLinear(projection, *adapters.parameters[layer, role]) if adapters else projection


def norm_of_layer(weights: ModelWeights, layer: int, role: str) -> nn.Cell:
    """A layer's norm, or nothing where the model has none there."""
    weight = weights.of_layer(layer, role)
    return nn.Identity() if weight is None else RMSNorm(weight, weights.config.rms_norm_eps)
