"""Runs each operator of a backend on the cases of the grid and compares what it gives with NumPy."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_paged.ascend_check import reference
from mindspore_paged.ascend_check.cases import NUM_WRITER_BLOCKS, AttentionCase, WriterCase, numpy_dtype
from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.custom_ops.ops import CopyBlocks, PagedAttention, ReadBlocks, ReshapeAndCache, WriteBlocks

# Half a unit in the last place. A kernel may round queries and weights to the caches' type: a few of these a term.
# Scores are float32, of up to some 30: what they are rounded by is by how much a weight changes.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ROUNDINGS_A_TERM = 4
LARGEST_SCORE = 32
REFUSED_PADDING = re.compile(r"context length -?\d+ of a padding token \(row -1\), it must be 0")


def tensor(array: np.ndarray) -> Tensor:
    """MindSpore's tensor of a NumPy array, bfloat16 too."""
    return Tensor(array.astype(np.float32), ms.bfloat16) if array.dtype == numpy_dtype("bfloat16") else Tensor(array)


def array(value: Tensor) -> np.ndarray:
    """NumPy's array of a tensor, bfloat16 too."""
    if value.dtype == ms.bfloat16:
        return value.astype(ms.float32).asnumpy().astype(numpy_dtype("bfloat16"))
    return value.asnumpy()


class OverPages(nn.Cell):
    """One operator as a graph of its own over pages that it keeps: operands, but for the two caches -> its output.

    num_before: how many of the operands stand before the caches.
    """

    def __init__(self, operator: nn.Cell, key_cache: np.ndarray, value_cache: np.ndarray, num_before: int):
        super().__init__()
        self.operator = operator
        self.num_before = num_before
        self.key_cache = Parameter(tensor(key_cache), name="key_cache", requires_grad=False)
        self.value_cache = Parameter(tensor(value_cache), name="value_cache", requires_grad=False)

    def put(self, key_cache: np.ndarray, value_cache: np.ndarray) -> None:
        """Give the pages other contents of the same shape and type."""
        self.key_cache.set_data(tensor(key_cache))
        self.value_cache.set_data(tensor(value_cache))

    def construct(self, *operands):
        """Apply the operator; operands one by one, because tensors in a tuple would be constants of the graph."""
        before, after = operands[: self.num_before], operands[self.num_before :]
        return self.operator(*before, self.key_cache, self.value_cache, *after)


@dataclass(frozen=True)
class Runs:
    """What an operator gave on the same inputs, again and again: the first outputs, and how many differ from them."""

    outputs: tuple[np.ndarray, ...]
    repeats: int
    unequal: int


def repeated(run: Callable[[], tuple[np.ndarray, ...]], repeats: int) -> Runs:
    """Run so many times, and compare to the last bit."""
    first = run()
    bits = [output.tobytes() for output in first]
    others = ([output.tobytes() for output in run()] for _ in range(repeats - 1))
    return Runs(first, repeats, sum(other != bits for other in others))


def check_attention(case: AttentionCase, backend: str | Path, repeats: int = 1) -> Finding:
    """Compare `repeats` calls of paged_attention with NumPy, and with each other."""
    query, key_cache, value_cache, *after = case.operands(np.random.default_rng(1))
    scale = case.heads.head_dim**-0.5
    cell = OverPages(PagedAttention(scale, backend, case.window), key_cache, value_cache, num_before=1)
    operands = tuple(map(tensor, (query, *after)))
    runs = repeated(lambda: (array(cell(*operands)),), repeats)
    return of_attention(case, runs, reference.attention(query, key_cache, value_cache, *after, scale, case.window))


def of_attention(case: AttentionCase, runs: Runs, reference_and_magnitude: tuple[np.ndarray, np.ndarray]) -> Finding:
    """The finding of what paged_attention gave, beside what it should."""
    expected, magnitude = reference_and_magnitude
    # Over int8 a kernel rounds queries and weights to the query's type, or not at all.
    narrow = case.query_dtype if case.heads.cache_dtype == "int8" else case.heads.cache_dtype
    a_term = ROUNDINGS_A_TERM * (ROUNDING[narrow] + LARGEST_SCORE * ROUNDING["float32"])
    allowed = a_term * magnitude + ROUNDING[case.query_dtype] * np.abs(expected)
    error, limit, right = worst(runs.outputs[0], expected, allowed)
    types = f"{case.query_dtype}, {case.heads.cache_dtype}"
    figures = {"repeats": runs.repeats, "unequal": runs.unequal}
    return Finding("paged_attention", case.shape, types, error, limit, right, **figures)


def check_padding(case: AttentionCase, backend: str | Path, repeats: int = 1) -> Finding:
    """The same for padding that states a context, which a backend may also refuse before it touches memory."""
    try:
        return check_attention(case, backend, repeats)
    except RuntimeError as error:
        if (refusal := REFUSED_PADDING.search(str(error))) is None:
            raise
        reason = f"refused on the host: {refusal[0]}"
        return Finding("paged_attention", case.shape, f"{case.query_dtype}, {case.heads.cache_dtype}", skipped=reason)


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


def check_writer_case(case: WriterCase, backend: str | Path, repeats: int = 1) -> Iterator[Finding]:
    """Compare `repeats` calls of each operator that moves tokens or blocks, to the last bit."""
    rng = np.random.default_rng(2)
    caches, (key, value, slots) = case.caches(rng), case.tokens_to_store(rng)
    last = NUM_WRITER_BLOCKS - 1
    pairs = np.array([(0, 3), (-1, -1), (3, last)], np.int32)  # in order: the last block gets the first one's content
    ids, places = np.array([last, 0, 2], np.int32), np.array([1, -1, 0], np.int32)
    pages = np.stack([np.zeros_like(reference.read_blocks(*caches, ids)), reference.read_blocks(*caches, ids)])

    def pages_after(operator: nn.Cell, before: tuple, *after) -> Runs:
        cell = OverPages(operator, *caches, len(before))

        def run() -> tuple[np.ndarray, np.ndarray]:
            cell.put(*caches)
            cell(*before, *after).asnumpy()
            return array(cell.key_cache), array(cell.value_cache)

        return repeated(run, repeats)

    stored = pages_after(ReshapeAndCache(backend), (tensor(key), tensor(value)), tensor(slots))
    types = f"{case.key_dtype}, {case.heads.cache_dtype}"
    stored_expected = reference.reshape_and_cache(key, value, *caches, slots)
    yield bitwise("reshape_and_cache", f"{case.shape} T={case.tokens}", types, stored, stored_expected)

    copied = pages_after(CopyBlocks(backend), (), tensor(pairs))
    reader = OverPages(ReadBlocks(backend), *caches, num_before=0)
    read = repeated(lambda: (array(reader(tensor(ids))),), repeats)
    written = pages_after(WriteBlocks(backend), (), tensor(pages), tensor(places), 1)
    for operator, found, expected in (
        ("copy_blocks", copied, reference.copy_blocks(*caches, pairs)),
        ("read_blocks", read, (reference.read_blocks(*caches, ids),)),
        ("write_blocks", written, reference.write_blocks(*caches, pages, places, 1)),
    ):
        yield bitwise(operator, case.shape, case.heads.cache_dtype, found, expected)


def bitwise(operator: str, shape: str, types: str, runs: Runs, expected: tuple) -> Finding:
    """A finding that is right where every array has the expected bits."""
    pairs = list(zip(runs.outputs, expected, strict=True))
    right = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
    error = max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)
    return Finding(operator, shape, types, error, 0.0, right, repeats=runs.repeats, unequal=runs.unequal)
