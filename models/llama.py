"""LLaMA 2 and 3 as Cells (Touvron et al. 2023): one step over T tokens of any sequences, through the paged cache.

Shapes: T tokens, H query heads, K KV heads, D head_dim, R rows of block_table, M blocks a row, N logits wanted.
Parameters carry Hugging Face's names. Where several ranks share a model, the linears (parallel.py) do the sharing: the
heads and widths here are those of one rank.
"""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_paged.cache.kv_pool import KVPagePool
from mindspore_paged.custom_ops.ops import PagedAttention, ReshapeAndCache
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.parallel import (
    ONE_RANK,
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    VocabParallelLogits,
    weight_parameter,
)
from mindspore_paged.models.rope import rope_tables
from mindspore_paged.tensor_parallel import WHOLE, Cut


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
        wide = self.cast(x, ms.float32)
        scale = ops.rsqrt(self.mean(wide * wide, -1) + self.eps)
        return self.cast(wide * scale, self.dtype) * self.weight


class LlamaAttention(nn.Cell):
    """Grouped-query attention over the sequence's pages; this step's keys and values are written first."""

    def __init__(self, config: ModelConfig, dtype, ops_backend, ranks):
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        query_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = ColumnParallelLinear(config.hidden_size, query_size, dtype)
        self.k_proj = ColumnParallelLinear(config.hidden_size, kv_size, dtype)
        self.v_proj = ColumnParallelLinear(config.hidden_size, kv_size, dtype)
        self.o_proj = RowParallelLinear(query_size, config.hidden_size, dtype, ranks)
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
        self.gate_proj = ColumnParallelLinear(config.hidden_size, config.intermediate_size, dtype)
        self.up_proj = ColumnParallelLinear(config.hidden_size, config.intermediate_size, dtype)
        self.down_proj = RowParallelLinear(config.intermediate_size, config.hidden_size, dtype, ranks)

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


class LlamaModel(nn.Cell):
    """Embedding, decoder layers, final norm."""

    def __init__(self, config: ModelConfig, vocab: Cut, kv_pool: KVPagePool, dtype, ops_backend, share_layers, ranks):
        super().__init__()
        self.embed_tokens = VocabParallelEmbedding(vocab, config.vocab_size, config.hidden_size, dtype, ranks)

        def layer():
            return LlamaDecoderLayer(config, dtype, ops_backend, ranks)

        num_layers = config.num_hidden_layers
        self.layers = nn.CellList([layer()] * num_layers if share_layers else [layer() for _ in range(num_layers)])
        self.key_caches, self.value_caches = ParameterTuple(kv_pool.key_caches), ParameterTuple(kv_pool.value_caches)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)

    def construct(self, input_ids, step):
        x = self.embed_tokens(input_ids)
        for layer, key_cache, value_cache in zip(self.layers, self.key_caches, self.value_caches):  # noqa: B905
            x = layer(x, key_cache, value_cache, step)
        return self.norm(x)


class LlamaForCausalLM(nn.Cell):
    """One step of a LLaMA over T tokens, whatever mixture of prefill and decode they are.

    config: dimensions; kv_pool: pages and block_table that the step reads and writes in place;
    num_positions: rows of the rotary table (max_model_len); dtype: of weights and activations;
    share_layers: all layers have the weights of one, for compiling a graph whose own would not fit in memory.
    parallel, ranks: which part of the model this rank has, and how the ranks exchange what they computed; kv_pool has
    the KV heads of that part.

    Calling it: input_ids, positions, rows int32 [T] (padding: row -1); logit_indices int32 [N], tokens whose logits are
    wanted; table_indices int32 [U, 2] and table_values int32 [U], entries of block_table to write before anything
    else. Returns logits float32 [N, vocab_size].
    """

    def __init__(
        self, config: ModelConfig, kv_pool: KVPagePool, num_positions, dtype=ms.float32, ops_backend="cpu",
        share_layers=False, parallel=WHOLE, ranks=ONE_RANK,
    ):  # fmt: skip
        super().__init__()
        vocab = parallel.vocab(config)
        self.model = LlamaModel(parallel.share(config), vocab, kv_pool, dtype, ops_backend, share_layers, ranks)
        self.tied = config.tie_word_embeddings
        if not self.tied:
            self.lm_head = ColumnParallelLinear(config.hidden_size, vocab.length, dtype)
        self.logits = VocabParallelLogits(config.vocab_size, ranks)
        for name, weight in self.weights().items():
            weight.name = name
        self.block_table = kv_pool.block_table
        self.block_size = kv_pool.block_size
        self.blocks_per_row = kv_pool.block_table.shape[1]
        cos, sin = rope_tables(config, num_positions)
        self.cos_table, self.sin_table = Tensor(cos[:, None], dtype), Tensor(sin[:, None], dtype)
        self.gather = ops.Gather()
        self.write_table = ops.ScatterNdUpdate()

    def weights(self) -> dict[str, Parameter]:
        """What a checkpoint must provide, by Hugging Face's names; the pool's Parameters are not among them."""
        return {name: p for name, p in self.parameters_and_names() if name.endswith(".weight")}

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        block_table = ops.depend(self.block_table, self.write_table(self.block_table, table_indices, table_values))
        step = (
            self.gather(self.cos_table, positions, 0),
            self.gather(self.sin_table, positions, 0),
            self.slots(block_table, positions, rows),
            block_table,
            rows,
            ops.select(rows < 0, ops.zeros_like(positions), positions + 1),
        )
        hidden = self.gather(self.model(input_ids, step), logit_indices, 0)
        return self.logits(hidden, self.model.embed_tokens.weight if self.tied else self.lm_head.weight)

    def slots(self, block_table, positions, rows):
        """Flat slot of each token in the pages, int32 [T]; -1 for padding, which is never written."""
        entries = ops.maximum(rows, 0) * self.blocks_per_row + positions // self.block_size
        blocks = self.gather(block_table.reshape(-1), entries, 0)
        return ops.select(rows < 0, ops.zeros_like(rows) - 1, blocks * self.block_size + positions % self.block_size)
