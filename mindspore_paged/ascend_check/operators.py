"""Runs each operator of a backend on the grid and compares what it gives with NumPy."""

from collections.abc import Iterator

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_paged.ascend_check import reference
from mindspore_paged.ascend_check.cases import (
    ATTENTION_CASES,
    NUM_WRITER_BLOCKS,
    WRITER_CASES,
    AttentionCase,
    WriterCase,
    numpy_dtype,
)
from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.custom_ops.ops import CopyBlocks, PagedAttention, ReadBlocks, ReshapeAndCache, WriteBlocks

# Half a unit in the last place. A kernel may round queries and weights to the caches' type: a few of these a term.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ROUNDINGS_A_TERM = 4


def tensor(array: np.ndarray) -> Tensor:
    """MindSpore's tensor of a NumPy array, bfloat16 too."""
    return Tensor(array.astype(np.float32), ms.bfloat16) if array.dtype == numpy_dtype("bfloat16") else Tensor(array)


def array(value: Tensor) -> np.ndarray:
    """NumPy's array of a tensor, bfloat16 too."""
    if value.dtype == ms.bfloat16:
        return value.astype(ms.float32).asnumpy().astype(numpy_dtype("bfloat16"))
    return value.asnumpy()


class OverPages(nn.Cell):
    """One operator as a graph of its own over pages that it keeps: `before`, the two caches, `after` -> its output."""

    def __init__(self, operator: nn.Cell, key_cache: np.ndarray, value_cache: np.ndarray):
        super().__init__()
        self.operator = operator
        self.key_cache = Parameter(tensor(key_cache), name="key_cache", requires_grad=False)
        self.value_cache = Parameter(tensor(value_cache), name="value_cache", requires_grad=False)

    def construct(self, before, after):
        """Apply the operator."""
        return self.operator(*before, self.key_cache, self.value_cache, *after)


def check_operators(backend: str) -> Iterator[Finding]:
    """Compare the five operators on every case of the grid."""
    for case in ATTENTION_CASES:
        yield check_attention(case, backend)
    for case in WRITER_CASES:
        yield from check_writer_case(case, backend)


def check_attention(case: AttentionCase, backend: str) -> Finding:
    """Compare one call of paged_attention."""
    query, key_cache, value_cache, *after = case.operands(np.random.default_rng(1))
    scale = case.heads.head_dim**-0.5
    cell = OverPages(PagedAttention(scale, backend, case.window), key_cache, value_cache)
    output = array(cell((tensor(query),), tuple(map(tensor, after))))
    expected, magnitude = reference.attention(query, key_cache, value_cache, *after, scale, case.window)
    allowed = ROUNDINGS_A_TERM * ROUNDING[case.heads.cache_dtype] * magnitude
    allowed += ROUNDING[case.query_dtype] * np.abs(expected)
    error, limit, right = worst(output, expected, allowed)
    return Finding("paged_attention", case.shape, f"{case.query_dtype}, {case.heads.cache_dtype}", error, limit, right)


def worst(output: np.ndarray, expected: np.ndarray, allowed: np.ndarray) -> tuple[float, float, bool]:
    """The error where it is largest by what is allowed there, that allowance, and whether every error is allowed.

    A NaN is never allowed; where nothing is allowed, only the expected value is.
    """
    error = np.abs(output.astype(np.float64) - expected)
    error[np.isnan(error)] = np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error == 0, 0, error / allowed)
    place = np.unravel_index(np.argmax(share), share.shape)
    return float(error[place]), float(allowed[place]), bool(np.all(error <= allowed))


def check_writer_case(case: WriterCase, backend: str) -> Iterator[Finding]:
    """Compare one call of each operator that moves tokens or blocks, to the last bit."""
    rng = np.random.default_rng(2)
    caches, (key, value, slots) = case.caches(rng), case.tokens_to_store(rng)
    last = NUM_WRITER_BLOCKS - 1
    pairs = np.array([(0, 3), (-1, -1), (3, last)], np.int32)  # in order: the last block gets the first one's content
    ids, places = np.array([last, 0, 2], np.int32), np.array([1, -1, 0], np.int32)
    pages = np.stack([np.zeros_like(reference.read_blocks(*caches, ids)), reference.read_blocks(*caches, ids)])

    def pages_after(operator: nn.Cell, before: tuple, *after) -> tuple[np.ndarray, np.ndarray]:
        cell = OverPages(operator, *caches)
        cell(before, after).asnumpy()
        return array(cell.key_cache), array(cell.value_cache)

    stored = pages_after(ReshapeAndCache(backend), (tensor(key), tensor(value)), tensor(slots))
    types = f"{case.key_dtype}, {case.heads.cache_dtype}"
    stored_expected = reference.reshape_and_cache(key, value, *caches, slots)
    yield bitwise("reshape_and_cache", f"{case.shape} T={case.tokens}", types, stored, stored_expected)

    copied = pages_after(CopyBlocks(backend), (), tensor(pairs))
    read = array(OverPages(ReadBlocks(backend), *caches)((), (tensor(ids),)))
    written = pages_after(WriteBlocks(backend), (), tensor(pages), tensor(places), 1)
    for operator, found, expected in (
        ("copy_blocks", copied, reference.copy_blocks(*caches, pairs)),
        ("read_blocks", (read,), (reference.read_blocks(*caches, ids),)),
        ("write_blocks", written, reference.write_blocks(*caches, pages, places, 1)),
    ):
        yield bitwise(operator, case.shape, case.heads.cache_dtype, found, expected)


def bitwise(operator: str, shape: str, types: str, found: tuple, expected: tuple) -> Finding:
    """A finding that is right where every array has the expected bits."""
    pairs = list(zip(found, expected, strict=True))
    right = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
    error = max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)
    return Finding(operator, shape, types, error, 0.0, right)
