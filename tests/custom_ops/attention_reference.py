"""Scenes of paged attention, and what they should give: plain NumPy in float64, row by row, without pages."""

from dataclasses import dataclass

import numpy as np

from tests.custom_ops.int8_pages import from_cache, to_cache

UNUSED_ENTRY = 2**30  # stands behind a row's context in the block table: must never be looked at


@dataclass
class Scene:
    """The inputs of one paged_attention call; every slot that no token uses holds NaN."""

    query: np.ndarray
    key_cache: np.ndarray
    value_cache: np.ndarray
    block_table: np.ndarray
    rows: np.ndarray
    context_lens: np.ndarray
    scale: float
    window: int = 0

    def inputs(self):
        """In the operator's order."""
        return (
            self.query,
            self.key_cache,
            self.value_cache,
            self.block_table,
            self.rows,
            self.context_lens,
            self.scale,
            self.window,
        )


def make_scene(
    rng,
    contexts,
    *,
    new_tokens=None,
    heads=4,
    kv_heads=2,
    head_dim=64,
    block_size=16,
    query_dtype=np.float32,
    cache_dtype=np.float32,
    amplitude=1.0,
    window=0,
):
    """Row r has contexts[r] tokens, the last new_tokens[r] of which (default 1) are asked for; blocks lie at random.

    With a window, blocks that no token sees are given back: the table names block 0 there, which holds NaN.
    """
    new_tokens = new_tokens or [1] * len(contexts)
    block_counts = [-(-context // block_size) for context in contexts]
    num_blocks = sum(block_counts) + 3
    ids = rng.permutation(num_blocks).astype(np.int32)
    if window:
        ids = ids[ids != 0]
    block_table = np.full((len(contexts), max(block_counts) + 1), UNUSED_ENTRY, np.int32)
    caches = np.full((2, num_blocks, block_size, kv_heads, head_dim), np.nan)
    for row, (context, count) in enumerate(zip(contexts, block_counts, strict=True)):
        block_table[row, :count], ids = ids[:count], ids[count:]
        first_seen = max(0, context - new_tokens[row] + 1 - window) if window else 0
        block_table[row, : first_seen // block_size] = 0
        for position in range(first_seen, context):
            block = block_table[row, position // block_size]
            caches[:, block, position % block_size] = rng.normal(size=(2, kv_heads, head_dim)) * amplitude
    rows = np.repeat(np.arange(len(contexts), dtype=np.int32), new_tokens)
    context_lens = np.concatenate(
        [np.arange(c - n + 1, c + 1, dtype=np.int32) for c, n in zip(contexts, new_tokens, strict=True)]
    )
    query = (rng.normal(size=(len(rows), heads, head_dim)) * amplitude).astype(query_dtype)
    key_cache, value_cache = (to_cache(cache, cache_dtype) for cache in caches)
    return Scene(query, key_cache, value_cache, block_table, rows, context_lens, head_dim**-0.5, window)


def reference_attention(scene):
    """Softmax(q K^T scale) V in float64 over the tokens of each row, gathered one by one; padding gives zeros."""
    block_size = scene.key_cache.shape[1]
    group = scene.query.shape[1] // scene.key_cache.shape[2]
    output = np.zeros(scene.query.shape, np.float64)
    key_cache, value_cache = from_cache(scene.key_cache), from_cache(scene.value_cache)
    for token, (row, context) in enumerate(zip(scene.rows, scene.context_lens, strict=True)):
        if context == 0:
            continue
        positions = np.arange(max(0, context - scene.window) if scene.window else 0, context)
        blocks = scene.block_table[row, positions // block_size]
        keys = key_cache[blocks, positions % block_size]
        values = value_cache[blocks, positions % block_size]
        for head in range(scene.query.shape[1]):
            scores = keys[:, head // group] @ scene.query[token, head].astype(np.float64) * scene.scale
            weights = np.exp(scores - scores.max())
            output[token, head] = weights @ values[:, head // group] / weights.sum()
    return output


def assert_close(output, expected, float32_error=5e-6):
    """Within float32's rounding of sums, plus half a unit in the last place of the output's own type."""
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[output.dtype.name]
    allowed = float32_error + unit * 1.01 * np.abs(expected)
    error = np.abs(output.astype(np.float64) - expected)
    assert np.all(error <= allowed), f"largest error {np.nanmax(error):.3g}, NaN: {np.isnan(error).any()}"
