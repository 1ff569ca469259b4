"""Rows of a weight where a file has them: what a model holds as it is stored goes from there to its memory at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.tensor_parallel import Cut


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class StoredRows:
    """A weight of the format `form` in a mapped file, which is read as it is looked at.

    rows: [N, columns], uint8 [N, bytes of a row's blocks], or [N] of a bias or a norm; read-only, and apart where a
    rank has some of the columns. order: int64, the rows of the weight one after the other; None: as they come.
    let_go: lets the system take back the memory that has come from the file; it comes again when it is looked at.
    """

    form: WeightFormat
    rows: np.ndarray
    order: np.ndarray | None = None
    let_go: Callable[[], None] = _nothing

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.rows[:1].nbytes

    def between(self, rows: slice) -> "StoredRows":
        """Some of the weight's rows."""
        if self.order is None:
            return replace(self, rows=self.rows[rows])
        return replace(self, order=self.order[rows])

    def part_of(self, cut: Cut) -> "StoredRows | None":
        """A rank's part; None where blocks are cut, or rows are missing that a rank fills up."""
        if cut.stop - cut.start < cut.length:
            return None
        if cut.axis == 0:
            return self.between(slice(cut.start, cut.stop))
        if not self.form.divides(cut.start, cut.stop):
            return None
        first, last = (self.form.row_bytes(column) // self.form.dtype.itemsize for column in (cut.start, cut.stop))
        return replace(self, rows=self.rows[:, first:last])


@runtime_checkable
class RowSource(Protocol):
    """A checkpoint that can show tensors where its files have them."""

    def stored_rows(self, name: str) -> StoredRows | None:
        """The rows of the tensor called `name`, as `read` and `read_blocks` would copy them; None where it cannot."""
