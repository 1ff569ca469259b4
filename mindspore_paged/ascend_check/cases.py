"""The grid of shapes that the operators are checked on, and random operands for them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from mindspore_paged.ascend_check.int8_pages import SCALE_BYTES, to_cache

UNUSED_ENTRY = 2**30  # stands in the block table behind a row's context, and before its window: must never be looked at
NUM_WRITER_BLOCKS = 7
TILE_EDGE = 64  # tokens: the kernels' tiles are multiples of it


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
        """Shape of the numbers in so many blocks: that of a cache, but of int8, which has scales behind them."""
        return num_blocks, self.block_size, self.kv_heads, self.head_dim

    def stored(self, pages: np.ndarray) -> tuple[np.ndarray, ...]:
        """Some caches' numbers [C, NB, BS, K, D] as these caches hold them."""
        return tuple(to_cache(numbers, numpy_dtype(self.cache_dtype)) for numbers in pages)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in one cache."""
        scales = SCALE_BYTES if self.cache_dtype == "int8" else 0
        head = self.head_dim * numpy_dtype(self.cache_dtype).itemsize + scales
        return self.block_size * self.kv_heads * head

    def __str__(self) -> str:
        return f"H={self.heads} K={self.kv_heads} D={self.head_dim} BS={self.block_size}"


@dataclass(frozen=True)
class AttentionCase:
    """Row r has contexts[r] tokens, the last new_tokens[r] of which are asked for; then come padding tokens.

    window: the tokens that each one sees, 0 for all. padding_context: the context that padding tokens state.
    """

    heads: Heads
    query_dtype: str
    contexts: tuple[int, ...]
    new_tokens: tuple[int, ...]
    padding: int = 0
    window: int = 0
    padding_context: int = 0

    @property
    def shape(self) -> str:
        """The case in a table cell."""
        window = f", window {self.window}" if self.window else ""
        padding = f", padding with a context of {self.padding_context}" if self.padding_context else ""
        contexts = "/".join(map(str, self.contexts))
        return f"{self.heads}, contexts {contexts}{window}{padding}, T={sum(self.new_tokens) + self.padding}"

    def operands(self, rng: np.random.Generator) -> tuple:
        """What paged_attention takes, but for scale and window; blocks lie at random, unused slots hold NaN.

        Every query but those of padding looks for one token among those that it sees, often the first, the last or one
        at the edge of a tile: a token that is left out, or seen twice, shows in contexts of thousands, too.
        """
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
        context_lens = np.append(context_lens, [self.padding_context] * self.padding).astype(np.int32)
        query = rng.standard_normal((len(rows), self.heads.heads, self.heads.head_dim), np.float32)
        sought = self._sought(rng, context_lens[: len(rows) - self.padding])
        blocks = block_table[rows[: len(sought), None], sought // self.heads.block_size]
        kv_head = np.arange(self.heads.heads) // (self.heads.heads // self.heads.kv_heads)
        query[: len(sought)] = caches[0][blocks, sought % self.heads.block_size, kv_head]
        key_cache, value_cache = self.heads.stored(caches)
        return query.astype(numpy_dtype(self.query_dtype)), key_cache, value_cache, block_table, rows, context_lens

    def _sought(self, rng: np.random.Generator, contexts: np.ndarray) -> np.ndarray:
        """For each token and head the position that its query looks for, [T, H]."""
        context = contexts[:, None]
        first = np.maximum(0, context - self.window) if self.window else np.zeros_like(context)
        size = len(contexts), self.heads.heads
        edge = rng.integers(first, context, size) // TILE_EDGE * TILE_EDGE - rng.integers(0, 2, size)
        somewhere = rng.integers(first, context, size)
        kind = (np.arange(size[0])[:, None] + np.arange(size[1])) % 4  # each of them is some head's
        return np.choose(kind, [first, context - 1, np.clip(edge, first, context - 1), somewhere])


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
        key_cache, value_cache = self.heads.stored(pages)
        return key_cache, value_cache

    def tokens_to_store(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """key, value [T, K, D] and slot_mapping [T]: different slots at random; every third token stays out."""
        size = (2, self.tokens, self.heads.kv_heads, self.heads.head_dim)
        key, value = rng.standard_normal(size, np.float32).astype(numpy_dtype(self.key_dtype))
        slots = rng.permutation(NUM_WRITER_BLOCKS * self.heads.block_size)[: self.tokens].astype(np.int32)
        slots[2::3] = -1
        return key, value, slots
