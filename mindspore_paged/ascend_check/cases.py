"""The grid of shapes that the operators are checked on, and random operands for them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

UNUSED_ENTRY = 2**30  # stands in the block table behind a row's context, and before its window: must never be looked at
NUM_WRITER_BLOCKS = 7


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's type of a name, `bfloat16` too."""
    return np.dtype(getattr(ml_dtypes, name, name))


@dataclass(frozen=True)
class Heads:
    """The shape of one layer's pages: H query heads over K KV heads, D head_dim, BS block_size, and their type."""

    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    cache_dtype: str

    def pages(self, num_blocks: int) -> tuple[int, ...]:
        """Shape of a cache of so many blocks."""
        return num_blocks, self.block_size, self.kv_heads, self.head_dim

    def __str__(self) -> str:
        return f"H={self.heads} K={self.kv_heads} D={self.head_dim} BS={self.block_size}"


@dataclass(frozen=True)
class AttentionCase:
    """Row r has contexts[r] tokens, the last new_tokens[r] of which are asked for; then come padding tokens.

    window: the tokens that each one sees, 0 for all.
    """

    heads: Heads
    query_dtype: str
    contexts: tuple[int, ...]
    new_tokens: tuple[int, ...]
    padding: int = 0
    window: int = 0

    @property
    def shape(self) -> str:
        """The case in a table cell."""
        window = f", window {self.window}" if self.window else ""
        contexts = "/".join(map(str, self.contexts))
        return f"{self.heads}, contexts {contexts}{window}, T={sum(self.new_tokens) + self.padding}"

    def operands(self, rng: np.random.Generator) -> tuple:
        """What paged_attention takes, but for scale and window; blocks lie at random, unused slots hold NaN."""
        counts = [-(-context // self.heads.block_size) for context in self.contexts]
        num_blocks = sum(counts) + 2
        order = rng.permutation(num_blocks).astype(np.int32)
        block_table = np.full((len(counts), max(counts) + 1), UNUSED_ENTRY, np.int32)
        caches = np.full((2, *self.heads.pages(num_blocks)), np.nan, np.float32)
        for row, (context, count) in enumerate(zip(self.contexts, counts, strict=True)):
            first_seen = max(0, context - self.new_tokens[row] + 1 - self.window) if self.window else 0
            block_table[row, :count], order = order[:count], order[count:]
            block_table[row, : first_seen // self.heads.block_size] = UNUSED_ENTRY
            positions = np.arange(first_seen, context)
            places = block_table[row, positions // self.heads.block_size], positions % self.heads.block_size
            caches[(slice(None), *places)] = rng.standard_normal((2, len(positions), *caches.shape[3:]), np.float32)
        asked = list(zip(self.contexts, self.new_tokens, strict=True))
        rows = np.repeat(np.arange(len(counts)), self.new_tokens)
        context_lens = np.concatenate([np.arange(context - new + 1, context + 1) for context, new in asked])
        rows = np.append(rows, [-1] * self.padding).astype(np.int32)
        context_lens = np.append(context_lens, [0] * self.padding).astype(np.int32)
        query = rng.standard_normal((len(rows), self.heads.heads, self.heads.head_dim), np.float32)
        key_cache, value_cache = caches.astype(numpy_dtype(self.heads.cache_dtype))
        return query.astype(numpy_dtype(self.query_dtype)), key_cache, value_cache, block_table, rows, context_lens


@dataclass(frozen=True)
class WriterCase:
    """The pages and the inputs' type that the operators which move whole tokens and blocks are checked on."""

    heads: Heads
    key_dtype: str
    tokens: int

    @property
    def shape(self) -> str:
        """The case in a table cell."""
        heads = self.heads
        return f"NB={NUM_WRITER_BLOCKS} BS={heads.block_size} K={heads.kv_heads} D={heads.head_dim}"

    def caches(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pages full of random numbers."""
        pages = rng.standard_normal((2, *self.heads.pages(NUM_WRITER_BLOCKS)), np.float32)
        key_cache, value_cache = pages.astype(numpy_dtype(self.heads.cache_dtype))
        return key_cache, value_cache

    def tokens_to_store(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """key, value [T, K, D] and slot_mapping [T]: different slots at random; every third token stays out."""
        size = (2, self.tokens, self.heads.kv_heads, self.heads.head_dim)
        key, value = rng.standard_normal(size, np.float32).astype(numpy_dtype(self.key_dtype))
        slots = rng.permutation(NUM_WRITER_BLOCKS * self.heads.block_size)[: self.tokens].astype(np.int32)
        slots[2::3] = -1
        return key, value, slots


ATTENTION_CASES = (
    AttentionCase(Heads(8, 8, 128, 128, "float16"), "float16", (1, 128, 129, 300), (1, 1, 1, 1)),
    AttentionCase(Heads(16, 4, 128, 16, "float16"), "float16", (33, 160), (1, 1), padding=2),
    AttentionCase(Heads(16, 2, 128, 128, "bfloat16"), "bfloat16", (257, 64), (1, 1)),
    AttentionCase(Heads(9, 3, 64, 16, "float16"), "float32", (40, 7), (33, 1)),
    AttentionCase(Heads(4, 2, 16, 16, "bfloat16"), "float32", (50,), (4,)),
    AttentionCase(Heads(8, 4, 64, 16, "float16"), "float16", (20, 150), (1, 30), window=40),
    AttentionCase(Heads(16, 4, 128, 16, "float16"), "float16", (20, 150), (1, 30), window=40),
)
WRITER_CASES = (
    WriterCase(Heads(8, 8, 128, 128, "float16"), "float16", tokens=5),
    WriterCase(Heads(8, 2, 128, 16, "bfloat16"), "bfloat16", tokens=40),
    WriterCase(Heads(9, 3, 64, 16, "float16"), "float32", tokens=17),
    WriterCase(Heads(4, 2, 16, 16, "bfloat16"), "float32", tokens=1),
    WriterCase(Heads(4, 2, 32, 16, "bfloat16"), "float16", tokens=6),
    WriterCase(Heads(4, 2, 32, 16, "float16"), "bfloat16", tokens=6),
)
