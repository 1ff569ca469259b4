"""A weight of small numbers of which neighbours share a scale: dequantized, and as the blocks that kernels read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from mindspore_paged.formats.weight_format import (
    FP8_G32,
    FP8_G128,
    INT4_G32,
    INT4_G64,
    INT4_G128,
    INT8_G32,
    INT8_G128,
    WeightFormat,
)
from mindspore_paged.weights.safetensors_files import FLOAT8

_FLOAT8_VALUES = np.arange(256, dtype=np.uint8).view(FLOAT8).astype(np.float32)
_PART_NUMBERS = 4 << 20


class Numbers(Enum):
    """What a weight is made of, with the blocks that hold it, large ones first."""

    INT4 = (INT4_G128, INT4_G64, INT4_G32)
    """Whole numbers of 0 to 15, uint8."""
    INT8 = (INT8_G128, INT8_G32)
    """Whole numbers of -128 to 127, int8."""
    FLOAT8 = (FP8_G128, FP8_G32)
    """The bits of float8_e4m3fn, uint8."""


@dataclass(frozen=True)
class Part:
    """Some rows of a weight, or some of its columns.

    numbers: [rows, columns]. scales: float32 [rows, groups of the whole weight]. zeros: what is subtracted from numbers
    first, shaped like scales, or None.
    """

    numbers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None


class GroupedWeight(ABC):
    """A weight [rows, columns]: (number - zero) * scale, of which a row's columns of one group share scale and zero.

    numbers: of what kind they are. tensors: the names of those that it is stored as. shape: its own. groups: the group
    of each column, int32. has_zeros: whether anything is subtracted from its numbers. scale_dtype: what its scales are
    stored as.
    """

    numbers: Numbers
    tensors: tuple[str, ...]
    shape: tuple[int, int]
    groups: np.ndarray
    has_zeros: bool
    scale_dtype: np.dtype

    @abstractmethod
    def part(self, axis: int, start: int, stop: int) -> Part:
        """What the weight has from start to stop of one axis."""

    def block_format(self, start: int, stop: int) -> WeightFormat | None:
        """The blocks that hold the columns from start to stop exactly; None where there are none."""
        if self.has_zeros and self.numbers is not Numbers.INT4:
            return None
        run = _run(self.groups[start:stop])
        return next((form for form in self.numbers.value if run % form.group == 0), None)

    def read_part(self, axis: int, start: int, stop: int) -> np.ndarray:
        """From start to stop of one axis, dequantized: float32, each weight rounded once."""
        groups = self.groups[start:stop] if axis else self.groups
        weights = np.empty((self.shape[0] if axis else stop - start, len(groups)), np.float32)
        with np.errstate(all="ignore"):  # scales that are infinite or NaN are the file's, and show in the answers
            for rows, part in self._parts(axis, start, stop):
                self._dequantize(part, groups, weights[rows])
        return weights

    def read_blocks(self, axis: int, start: int, stop: int) -> np.ndarray:
        """From start to stop of one axis as the blocks that `block_format` says, uint8 [rows, bytes of a row]."""
        columns = (start, stop) if axis else (0, self.shape[1])
        form = self.block_format(*columns)
        groups = self.groups[slice(*columns)][:: form.group]
        shape = self.shape[0] if axis else stop - start, len(groups)
        blocks = np.empty(shape, _LAYOUTS[self.numbers](form.group))
        for rows, part in self._parts(axis, start, stop):
            numbers = part.numbers.reshape(len(part.numbers), len(groups), form.group)
            blocks["scale"][rows] = part.scales.take(groups, axis=1)
            if self.numbers is Numbers.INT4:
                blocks["zero"][rows] = part.zeros.take(groups, axis=1)
                numbers = _halves(numbers)
            blocks["numbers"][rows] = numbers
        return blocks.view(np.uint8).reshape(shape[0], -1)

    def _parts(self, axis: int, start: int, stop: int) -> Iterator[tuple[slice, Part]]:
        """The part from start to stop: of whole rows some million numbers at a time, of columns all together."""
        if axis:
            yield slice(None), self.part(axis, start, stop)
            return
        step = max(32, _PART_NUMBERS // max(1, self.shape[1]) // 32 * 32)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            yield slice(first - start, last - start), self.part(0, first, last)

    def _dequantize(self, part: Part, groups: np.ndarray, weights: np.ndarray) -> None:
        run = _run(groups)
        if self.numbers is Numbers.FLOAT8:
            np.take(_FLOAT8_VALUES, part.numbers, out=weights)
        else:
            weights[...] = part.numbers
        by_runs = weights.reshape(len(weights), -1, run)
        if part.zeros is not None:
            by_runs -= part.zeros.take(groups[::run], axis=1)[..., None]
        by_runs *= part.scales.take(groups[::run], axis=1)[..., None]


_LAYOUTS: dict[Numbers, Callable[[int], np.dtype]] = {
    Numbers.INT4: lambda group: np.dtype([("scale", "<f4"), ("zero", "u1"), ("numbers", "u1", (group // 2,))]),
    Numbers.INT8: lambda group: np.dtype([("scale", "<f4"), ("numbers", "i1", (group,))]),
    Numbers.FLOAT8: lambda group: np.dtype([("scale", "<f4"), ("numbers", "u1", (group,))]),
}
"""The bytes of a block by the length of its group."""


def groups_of(columns: int, group: int) -> np.ndarray:
    """The group of each column, where neighbours make groups of that length; the last may be shorter."""
    return np.arange(columns, dtype=np.int32) // np.int32(group)


def _run(groups: np.ndarray) -> int:
    """The greatest length that cuts the columns into runs of one group each."""
    changes = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    return math.gcd(len(groups), *changes.tolist())


def _halves(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 4 bits, two in a byte: of each 32 the first 16 are low bits, the others high ones."""
    *rows, group = numbers.shape
    low, high = np.moveaxis(numbers.reshape(*rows, group // 32, 2, 16), -2, 0)
    return (low | high << 4).reshape(*rows, group // 2)
