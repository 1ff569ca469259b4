"""Times the operators on an NPU, and MindSpore's own beside them."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindspore_paged.ascend_check.cases import AttentionCase, Heads, numpy_dtype
from mindspore_paged.ascend_check.operators import OverPages, tensor
from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.custom_ops.ops import CopyBlocks, PagedAttention, ReadBlocks, ReshapeAndCache, WriteBlocks

WARM_UP_CALLS = 5
CALLS_A_ROUND = 20
ROUNDS = 15
MOVED_BLOCKS = 8


def _decode(heads: Heads, rows: int, context: int) -> AttentionCase:
    """One new token in each of so many rows; the built-in operators know only pages of the query's type."""
    return AttentionCase(heads, heads.cache_dtype, (context,) * rows, (1,) * rows)


LLAMA3_8B, LLAMA2_7B = Heads(32, 8, 128, 128, "float16"), Heads(32, 32, 128, 128, "float16")
DECODE_CASES = (
    _decode(LLAMA3_8B, 1, 4096),
    _decode(LLAMA3_8B, 16, 1024),
    _decode(LLAMA3_8B, 32, 2048),
    _decode(replace(LLAMA3_8B, cache_dtype="bfloat16"), 32, 2048),
    _decode(LLAMA2_7B, 8, 1024),
)


class BuiltInAttention(nn.Cell):
    """MindSpore's PagedAttention in our operands' order; query and output [T, H * D], as MindFormers calls it."""

    def __init__(self, heads: Heads):
        super().__init__()
        self.attention = ops.auto_generate.PagedAttention(heads.heads, heads.head_dim**-0.5, heads.kv_heads)

    def construct(self, query, key_cache, value_cache, block_table, context_lens):
        """Compute the attention of row t for token t."""
        return self.attention(query, key_cache, value_cache, block_table, context_lens)


class BuiltInReshapeAndCache(nn.Cell):
    """MindSpore's ReshapeAndCache; key and value [T, K * D]."""

    def __init__(self):
        super().__init__()
        self.reshape_and_cache = ops.auto_generate.ReshapeAndCache()

    def construct(self, key, value, key_cache, value_cache, slot_mapping):
        """Write the slots."""
        return self.reshape_and_cache(key, value, key_cache, value_cache, slot_mapping)


def time_operators(backend: str) -> Iterator[Finding]:
    """Time decode attention on every case, and the operators that move tokens and blocks on the shape of the last."""
    for case in DECODE_CASES:
        yield time_attention(case, backend)
    yield from time_writers(DECODE_CASES[-1], backend)


def milliseconds(run: Callable[[], object]) -> float:
    """Median time of one of several calls in a row, the device waited for at their end only."""
    for _ in range(WARM_UP_CALLS):
        run()
    ms.runtime.synchronize()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS_A_ROUND):
            run()
        ms.runtime.synchronize()
        rounds.append((time.perf_counter() - start) / CALLS_A_ROUND)
    return 1e3 * statistics.median(rounds)


def attempt(run: Callable[[], object]) -> float | str:
    """Time MindSpore's own operator, or say why it does not run: that is no fault of what is checked."""
    try:
        return milliseconds(run)
    except (RuntimeError, TypeError, ValueError) as error:
        lines = (line for line in str(error).splitlines() if any(map(str.isalpha, line)))  # MindSpore draws rules
        return f"failed: {next(lines, 'no message')[:80]}"


def time_attention(case: AttentionCase, backend: str) -> Finding:
    """Time one decode step's attention."""
    query, key_cache, value_cache, block_table, rows, context_lens = case.operands(np.random.default_rng(4))
    block_table = np.minimum(block_table, len(key_cache) - 1)  # the built-in operator may look at unused entries
    cell = OverPages(PagedAttention(case.heads.head_dim**-0.5, backend), key_cache, value_cache)
    built_in = OverPages(BuiltInAttention(case.heads), key_cache, value_cache)
    before, flat = tensor(query), tensor(query.reshape(len(query), -1))
    table, rows, lens = map(tensor, (block_table, rows, context_lens))
    return Finding(
        "paged_attention",
        f"{case.heads}, {len(query)} x {case.contexts[0]} tokens",
        case.heads.cache_dtype,
        milliseconds=milliseconds(lambda: cell((before,), (table, rows, lens))),
        built_in=attempt(lambda: built_in((flat,), (table, lens))),
    )


def time_writers(case: AttentionCase, backend: str) -> Iterator[Finding]:
    """Time the other operators over the pages of one layer."""
    rng = np.random.default_rng(5)
    heads, tokens = case.heads, len(case.contexts)
    _, key_cache, value_cache, *_ = case.operands(rng)
    key = tensor(rng.standard_normal((tokens, heads.kv_heads, heads.head_dim)).astype(numpy_dtype(heads.cache_dtype)))
    flat = key.reshape(tokens, -1)
    slots = tensor(rng.permutation(len(key_cache) * heads.block_size)[:tokens].astype(np.int32))
    ids = rng.permutation(len(key_cache))[: 2 * MOVED_BLOCKS].astype(np.int32)
    pairs, ids = tensor(ids.reshape(MOVED_BLOCKS, 2)), tensor(ids[:MOVED_BLOCKS])
    pages = tensor(np.zeros((1, 2, MOVED_BLOCKS, *key_cache.shape[1:]), key_cache.dtype))
    built_in = OverPages(BuiltInReshapeAndCache(), key_cache, value_cache)
    blocks = f"{heads}, {MOVED_BLOCKS} blocks"
    for operator, shape, cell, before, after in (
        ("reshape_and_cache", f"{heads}, {tokens} tokens", ReshapeAndCache(backend), (key, key), (slots,)),
        ("copy_blocks", blocks, CopyBlocks(backend), (), (pairs,)),
        ("read_blocks", blocks, ReadBlocks(backend), (), (ids,)),
        ("write_blocks", blocks, WriteBlocks(backend), (), (pages, ids, 0)),
    ):
        graph = OverPages(cell, key_cache, value_cache)
        yield Finding(
            operator,
            shape,
            heads.cache_dtype,
            milliseconds=milliseconds(lambda graph=graph, before=before, after=after: graph(before, after)),
            built_in=attempt(lambda: built_in((flat, flat), (slots,))) if operator == "reshape_and_cache" else None,
        )
