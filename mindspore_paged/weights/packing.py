"""From a checkpoint's tensors to what a model holds of them: each weight in its format, blocks as they are stored."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mindspore_paged.formats.weight_format import FORMATS, Q4_0, WeightFormat
from mindspore_paged.weights.check import check_dtype
from mindspore_paged.weights.stored_rows import RowSource
from mindspore_paged.weights.tensor_source import Checkpoint

AUTO, STORED = "auto", "stored"
ROWS_TOGETHER = 16
"""Rows that operators may take together, in an order of their own: a part of a weight has a multiple of them."""
BYTES_OF_A_PART = 32 * 2**20
"""Of a weight that is moved in parts, each of some milliseconds."""


@runtime_checkable
class BlockSource(Protocol):
    """A checkpoint that holds some of its tensors as blocks."""

    def block_format(self, name: str, start: int = 0, stop: int | None = None) -> WeightFormat | None:
        """The blocks that hold the columns from start to stop of the tensor called `name` as they are stored.

        None for floats, for blocks that no kernel reads, and where a block would be cut.
        """

    def float_dtype(self, name: str) -> np.dtype:
        """The floats for a tensor that no blocks hold: of a quantized one those that its scales are."""

    def read_blocks(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """Those blocks from start to stop (weights, not bytes) of one axis, as an array of its own."""


class Part(NamedTuple):
    """Rows of a weight: which of them, and what they are in the format in which it is held.

    order: int64, which of `stored` they are; None: all of them, as they come.
    """

    rows: slice
    stored: np.ndarray
    order: np.ndarray | None = None


def formats_of(checkpoint: Checkpoint | None, weight_dtype: str, dtype: str) -> Callable[[str], WeightFormat]:
    """How each of a checkpoint's matrices is held for model.weight_dtype.

    `auto`: what is quantized as it is stored, or as the floats of its scales where no kernel reads it; the rest as
    floats of `dtype`. `stored`: floats as they are stored, too. What is not there, which check_weights refuses, and all
    of it without a checkpoint, for a graph alone, is floats of `dtype`.
    """
    if checkpoint is None or weight_dtype not in (AUTO, STORED):
        form = FORMATS[dtype] if weight_dtype in (AUTO, STORED) else form_of_dtype(weight_dtype)
        return lambda name: form
    held = set(checkpoint.names())

    def form_of(name: str) -> WeightFormat:
        is_stored = name in held and (weight_dtype == STORED or _is_quantized(checkpoint, name))
        return stored_format(checkpoint, name) if is_stored else FORMATS[dtype]

    return form_of


def form_of_dtype(weight_dtype: str) -> WeightFormat:
    """The format that a value of model.weight_dtype names: `int4` is Q4_0, in scales of least squares."""
    return Q4_0 if weight_dtype == "int4" else FORMATS[weight_dtype]


def stored_blocks(checkpoint: Checkpoint, name: str) -> WeightFormat | None:
    """The blocks that a checkpoint stores a tensor as; None for floats, and for blocks that no kernel reads."""
    return checkpoint.block_format(name) if isinstance(checkpoint, BlockSource) else None


def _is_quantized(checkpoint: Checkpoint, name: str) -> bool:
    """Whether blocks hold a tensor as it is stored, or its scales say which floats do."""
    return isinstance(checkpoint, BlockSource) and (
        checkpoint.block_format(name) is not None or checkpoint.float_dtype(name) != checkpoint.dtype(name)
    )


def stored_format(checkpoint: Checkpoint, name: str) -> WeightFormat:
    """The format nearest to how a checkpoint stores a tensor: the same, or floats for blocks that no kernel reads.

    Raises CheckpointError for a type that is neither.
    """
    check_dtype(checkpoint, name)
    if not isinstance(checkpoint, BlockSource):
        return FORMATS[checkpoint.dtype(name).name]
    return stored_blocks(checkpoint, name) or FORMATS[checkpoint.float_dtype(name).name]


def read_packed(checkpoint: Checkpoint, name: str, form: WeightFormat) -> np.ndarray:
    """The tensor called `name` in the format `form`: the very blocks that are stored, or else rounded to it."""
    if stored_blocks(checkpoint, name) == form:
        return checkpoint.read_blocks(name, 0, 0, checkpoint.shape(name)[0])
    return form.pack(checkpoint.read(name))


def parts_of(checkpoint: Checkpoint, name: str, form: WeightFormat) -> Iterator[Part]:
    """What `read_packed` gives, some rows at a time, and not copied where a file has them in that format.

    A part is to be used before the next is asked for: of a file no more than one of them stays in memory.
    """
    stored = checkpoint.stored_rows(name) if isinstance(checkpoint, RowSource) else None
    num_rows = checkpoint.shape(name)[0]
    if stored is not None and stored.form.has_bytes_of(form):
        for rows in _slices(num_rows, stored.row_bytes):
            some = stored.between(rows)
            yield Part(rows, some.rows, some.order)
            stored.let_go()
    elif stored_blocks(checkpoint, name) == form:
        yield Part(slice(0, num_rows), checkpoint.read_blocks(name, 0, 0, num_rows))
    else:
        floats = checkpoint.read(name)
        for rows in _slices(num_rows, floats.nbytes // max(1, num_rows)):
            yield Part(rows, form.pack(floats[rows]))


def _slices(num_rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, BYTES_OF_A_PART // max(1, row_bytes) // ROWS_TOGETHER) * ROWS_TOGETHER
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))
