"""Times the operators on an NPU, and MindSpore's own beside them."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindspore_paged.ascend_check.cases import AttentionCase, Heads, numpy_dtype
from mindspore_paged.ascend_check.operators import OverPages, tensor
from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.custom_ops.ops import CopyBlocks, PagedAttention, ReadBlocks, ReshapeAndCache, WriteBlocks

Timing = tuple[str, str, Callable[[], Iterator[Finding]]]
"""Operators and shape that are timed, and how."""

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


def times(operators: str | Path) -> list[Timing]:
    """Time decode attention on every case, and the operators that move tokens and blocks on the shape of the last."""
    attention = [
        ("paged_attention", _shape_of(case), partial(time_attention, case, operators)) for case in DECODE_CASES
    ]
    writers, last = "reshape_and_cache, copy_blocks, read_blocks, write_blocks", DECODE_CASES[-1]
    return [*attention, (writers, _tokens_shape(last), partial(time_writers, last, operators))]


def built_in_times() -> list[Timing]:
    """Time MindSpore's own operators on the same."""
    attention = [("paged_attention", _shape_of(case), partial(time_built_in_attention, case)) for case in DECODE_CASES]
    last = DECODE_CASES[-1]
    return [*attention, ("reshape_and_cache", _tokens_shape(last), partial(time_built_in_writer, last))]


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


def time_attention(case: AttentionCase, operators: str | Path) -> Iterator[Finding]:
    """Time one decode step's attention."""
    query, key_cache, value_cache, block_table, rows, context_lens = case.operands(np.random.default_rng(4))
    cell = OverPages(PagedAttention(case.heads.head_dim**-0.5, operators), key_cache, value_cache, num_before=1)
    operands = tuple(map(tensor, (query, block_table, rows, context_lens)))
    time_of_one = milliseconds(lambda: cell(*operands))
    yield Finding("paged_attention", _shape_of(case), case.heads.cache_dtype, milliseconds=time_of_one)


def time_built_in_attention(case: AttentionCase) -> Iterator[Finding]:
    """Time the same of MindSpore's own PagedAttention."""
    query, key_cache, value_cache, block_table, _, context_lens = case.operands(np.random.default_rng(4))
    block_table = np.minimum(block_table, len(key_cache) - 1)  # it may look at unused entries
    cell = OverPages(BuiltInAttention(case.heads), key_cache, value_cache, num_before=1)
    operands = tuple(map(tensor, (query.reshape(len(query), -1), block_table, context_lens)))
    built_in = attempt(lambda: cell(*operands))
    yield Finding("paged_attention", _shape_of(case), case.heads.cache_dtype, built_in=built_in)


def time_writers(case: AttentionCase, operators: str | Path) -> Iterator[Finding]:
    """Time the other operators over the pages of one layer."""
    rng = np.random.default_rng(5)
    heads, (key_cache, value_cache), key, slots = case.heads, *_tokens(case, rng)
    ids = rng.permutation(len(key_cache))[: 2 * MOVED_BLOCKS].astype(np.int32)
    pairs, ids = tensor(ids.reshape(MOVED_BLOCKS, 2)), tensor(ids[:MOVED_BLOCKS])
    pages = tensor(np.zeros((1, 2, MOVED_BLOCKS, *key_cache.shape[1:]), key_cache.dtype))
    blocks = f"{heads}, {MOVED_BLOCKS} blocks"
    for operator, shape, cell, before, after in (
        ("reshape_and_cache", _tokens_shape(case), ReshapeAndCache(operators), (key, key), (slots,)),
        ("copy_blocks", blocks, CopyBlocks(operators), (), (pairs,)),
        ("read_blocks", blocks, ReadBlocks(operators), (), (ids,)),
        ("write_blocks", blocks, WriteBlocks(operators), (), (pages, ids, 0)),
    ):
        graph = OverPages(cell, key_cache, value_cache, len(before))
        time_of_one = milliseconds(partial(graph, *before, *after))
        yield Finding(operator, shape, heads.cache_dtype, milliseconds=time_of_one)


def time_built_in_writer(case: AttentionCase) -> Iterator[Finding]:
    """Time MindSpore's own ReshapeAndCache over the same pages."""
    caches, key, slots = _tokens(case, np.random.default_rng(5))
    cell, flat = OverPages(BuiltInReshapeAndCache(), *caches, num_before=2), key.reshape(len(key), -1)
    built_in = attempt(lambda: cell(flat, flat, slots))
    yield Finding("reshape_and_cache", _tokens_shape(case), case.heads.cache_dtype, built_in=built_in)


def _shape_of(case: AttentionCase) -> str:
    return f"{case.heads}, {len(case.contexts)} x {case.contexts[0]} tokens"


def _tokens_shape(case: AttentionCase) -> str:
    return f"{case.heads}, {len(case.contexts)} tokens"


def _tokens(case: AttentionCase, rng: np.random.Generator) -> tuple:
    """The caches, a token's keys for each row [T, K, D], which serve as values, too, and slots for them."""
    heads, tokens = case.heads, len(case.contexts)
    _, key_cache, value_cache, *_ = case.operands(rng)
    key = tensor(rng.standard_normal((tokens, heads.kv_heads, heads.head_dim)).astype(numpy_dtype(heads.cache_dtype)))
    slots = tensor(rng.permutation(len(key_cache) * heads.block_size)[:tokens].astype(np.int32))
    return (key_cache, value_cache), key, slots
