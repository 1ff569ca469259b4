"""The operators that models use, one signature each; the backend is chosen inside.

Shapes: T tokens, H query heads, K KV heads, D head_dim, NB blocks, BS block_size, R rows, M blocks a row.
A key_cache and a value_cache are [NB, BS, K, D], D even and BS a multiple of 16. Query, key and value may be float32,
float16 or bfloat16; the two caches share one of these types, of their own choice, or int8. Sums are float32. The
backends `ascend` and `ascend_emulator` take float16, bfloat16 and int8 caches only, D a multiple of 16 up to 128, and a
16-bit query of the caches' type, where that has 16 bits. Backends: `cpu`, `ascend` for an NPU, `ascend_emulator` for
the NPU's kernels run on the CPU, or the Path of a library that the operators were compiled to.

Caches of int8 are [NB, BS, K, D + 4]. In the bytes of a block stand first the values [BS, K, D] and then a float32
scale for each of [BS, K]: each head of a token is stored divided by its own scale, its largest magnitude / 127, rounded
to nearest, ties to even. A scale that would not be a normal number is 0, as that of zeros; that of a head with an
infinity or NaN is NaN, and so is what attends to it. On Ascend D is then a multiple of 32.

Bad input (an index out of range, a wrong shape or type) makes the operator fail before it touches memory. In Python
that is a RuntimeError whose text names the operator, the token, the value and what is allowed. MindSpore never runs a
graph again once a step of it failed: the Cell's other graphs go on, and `cell.compile_cache.clear()` makes the next
call compile anew. So check on the host what can be checked there.
"""

from pathlib import Path

from mindspore import nn

from mindspore_paged.custom_ops.targets import CACHES, cache_writer, custom_op
from mindspore_paged.errors import ConfigError


class ReshapeAndCache(nn.Cell):
    """Store keys and values in their slots of the paged cache, in place.

    Inputs: key, value [T, K, D]; key_cache, value_cache; slot_mapping [T] int32, block * BS + position in the block, or
    -1 for a token that is not stored. Output: int32 [1], to depend on. Raises ConfigError for an unknown backend.
    """

    def __init__(self, backend: str | Path):
        super().__init__()
        self.op = cache_writer("ReshapeAndCache", backend, "key", "value", *CACHES, "slot_mapping")

    def construct(self, key, value, key_cache, value_cache, slot_mapping):
        """Write the slots."""
        return self.op(key, value, key_cache, value_cache, slot_mapping)


class PagedAttention(nn.Cell):
    """Let each token attend to the first context_lens[t] tokens of its row, or the last of them, by way of block_table.

    scale: scores are multiplied by it. window: a token of context length c sees the tokens max(0, c - window) to c - 1
    (sliding window attention, Beltagy et al. 2020, "Longformer"), 0 for all; blocks that hold nothing of what a token
    sees are not read, and block_table may name any block in their stead.

    Inputs: query [T, H, D]; key_cache, value_cache; block_table [R, M] int32; rows [T] int32, -1 for padding;
    context_lens [T] int32, 0 for padding. Output: [T, H, D] of the query's type, zeros for padding. A token of row -1
    whose context length is not 0 is refused; on an NPU, which cannot refuse, it is padding. So is, everywhere, a token
    of any row with a context length of 0.

    On CPU a token's result is bitwise the same whatever else is in the batch, wherever its blocks lie, in a decode step
    or inside a prefill chunk, and for any number of threads. Raises ConfigError for an unknown backend
    and for a negative window.

    Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention"; online
    softmax: Milakov and Gimelshein 2018.
    """

    def __init__(self, scale: float, backend: str | Path, window: int = 0):
        super().__init__()
        if window < 0:
            raise ConfigError(f"window {window} is negative: it must be the number of tokens seen, or 0 for all")
        self.scale = float(scale)
        self.window = int(window)
        self.op = custom_op(
            "PagedAttention", backend, out_shape=lambda query, *_: query, out_dtype=lambda query, *_: query
        )

    def construct(self, query, key_cache, value_cache, block_table, rows, context_lens):
        """Compute the attention."""
        return self.op(query, key_cache, value_cache, block_table, rows, context_lens, self.scale, self.window)


class CopyBlocks(nn.Cell):
    """Copy whole blocks within the caches, in place: for copy-on-write and compaction.

    Inputs: key_cache, value_cache, on `cpu` also [L, NB, BS, K, D] of several layers; pairs [P, 2] int32 of source and
    destination, done in order, (-1, -1) for none.
    Output: int32 [1], to depend on. Raises ConfigError for an unknown backend.
    """

    def __init__(self, backend: str | Path):
        super().__init__()
        self.op = cache_writer("CopyBlocks", backend, *CACHES, "pairs")

    def construct(self, key_cache, value_cache, pairs):
        """Copy the blocks."""
        return self.op(key_cache, value_cache, pairs)


class ReadBlocks(nn.Cell):
    """Copy whole blocks out of the caches: for the tiers below the pool.

    Inputs: key_cache, value_cache, on `cpu` also [L, NB, BS, K, D] of several layers; block_ids [P] int32. Output:
    [2, P, BS, K, D] of the caches' type, keys and then values, or [L, 2, P, BS, K, D]. Raises ConfigError for an
    unknown backend.
    """

    def __init__(self, backend: str | Path):
        super().__init__()
        self.op = custom_op(
            "ReadBlocks",
            backend,
            out_shape=lambda cache, _, ids: [2, ids[0], *cache[1:]],
            out_dtype=lambda cache, *_: cache,
        )

    def construct(self, key_cache, value_cache, block_ids):
        """Copy the blocks."""
        return self.op(key_cache, value_cache, block_ids)


class WriteBlocks(nn.Cell):
    """Put whole blocks that ReadBlocks gave back into the caches, in place.

    Inputs: key_cache, value_cache, on `cpu` also [C, NB, BS, K, D] of several layers; pages [L, 2, P, BS, K, D] of all
    layers, of the caches' type; block_ids [P] int32, -1 for a page that is not written; layer, which of the L it is, or
    the first of several. Output: int32 [1], to depend on. Raises ConfigError for an unknown backend.
    """

    def __init__(self, backend: str | Path):
        super().__init__()
        self.op = cache_writer("WriteBlocks", backend, *CACHES, "pages", "block_ids", "layer")

    def construct(self, key_cache, value_cache, pages, block_ids, layer):
        """Write the blocks."""
        return self.op(key_cache, value_cache, pages, block_ids, layer)
