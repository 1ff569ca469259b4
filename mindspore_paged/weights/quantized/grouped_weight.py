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
from mindspore_paged.weights.tensor_source import widened

_LOW_BITS = np.uint64(0x0F0F0F0F0F0F0F0F)
_PART_NUMBERS = 1 << 20
_WORD_NUMBERS = 8
"""As many as a word of 32 bits has at most."""


class Numbers(Enum):
    """What a weight is made of, with the blocks that hold it, large ones first."""

    INT4 = (INT4_G128, INT4_G64, INT4_G32)
    """Whole numbers of 0 to 15."""
    INT8 = (INT8_G128, INT8_G32)
    """Whole numbers of -128 to 127, int8."""
    FLOAT8 = (FP8_G128, FP8_G32)
    """The bits of float8_e4m3fn, uint8."""


@dataclass(frozen=True)
class Part:
    """Some rows of a weight, or some of its columns.

    numbers: [rows, columns]; INT4 has two neighbours of a row in a byte, the first in its low bits. scales: float32
    [rows, groups of the whole weight]. zeros: what is subtracted from numbers first, shaped like scales, or None.
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
        """What the weight has from start to stop of one axis, of columns whole words; numbers may go on behind."""

    def block_format(self, start: int, stop: int) -> WeightFormat | None:
        """The blocks that hold the columns from start to stop exactly; None where there are none."""
        if self.has_zeros and self.numbers is not Numbers.INT4:
            return None
        run = _run(self.groups[start:stop])
        return next((form for form in self.numbers.value if run % form.group == 0), None)

    def read_part(self, axis: int, start: int, stop: int) -> np.ndarray:
        """From start to stop of one axis, dequantized: float32, each weight rounded once."""
        columns = slice(start, stop) if axis else slice(0, self.shape[1])
        groups = self.groups[columns]
        run = _run(groups)
        weights = np.empty((self.shape[0] if axis else stop - start, len(groups)), np.float32)
        with np.errstate(all="ignore"):  # scales that are infinite or NaN are the file's, and show in the answers
            for rows, before, part in self._parts(axis, start, stop):
                weights[rows] = self._floats(part.numbers)[:, before : before + len(groups)]
                by_runs = weights[rows].reshape(len(part.scales), -1, run)
                if part.zeros is not None:
                    by_runs -= part.zeros.take(groups[::run], axis=1)[..., None]
                by_runs *= part.scales.take(groups[::run], axis=1)[..., None]
        return weights

    def read_blocks(self, axis: int, start: int, stop: int) -> np.ndarray:
        """From start to stop of one axis as the blocks that `block_format` says, uint8 [rows, bytes of a row]."""
        columns = (start, stop) if axis else (0, self.shape[1])
        form = self.block_format(*columns)
        groups = self.groups[slice(*columns)][:: form.group]
        shape = self.shape[0] if axis else stop - start, len(groups)
        blocks = np.empty(shape, _LAYOUTS[self.numbers](form.group))
        for rows, before, part in self._parts(axis, start, stop):
            blocks["scale"][rows] = part.scales.take(groups, axis=1)
            if self.numbers is Numbers.INT4:
                blocks["zero"][rows] = part.zeros.take(groups, axis=1)
                numbers = _halves(_pairs(part.numbers, before, before + columns[1] - columns[0]))
            else:
                numbers = part.numbers[:, before : before + columns[1] - columns[0]]
            blocks["numbers"][rows] = numbers.reshape(len(numbers), len(groups), -1)
        return blocks.view(np.uint8).reshape(shape[0], -1)

    def _parts(self, axis: int, start: int, stop: int) -> Iterator[tuple[slice, int, Part]]:
        """The part from start to stop: of whole rows some million numbers at a time, of columns all together.

        Each with the rows that it is, and how many of its columns stand before those that are wanted.
        """
        if axis:
            first, last = widened(start, stop, _WORD_NUMBERS)
            yield slice(None), start - first, self.part(1, first, min(last, self.shape[1]))
            return
        step = max(32, _PART_NUMBERS // max(1, self.shape[1]) // 32 * 32)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            yield slice(first - start, last - start), 0, self.part(0, first, last)

    def _floats(self, numbers: np.ndarray) -> np.ndarray:
        if self.numbers is Numbers.FLOAT8:
            return np.ascontiguousarray(numbers).view(FLOAT8)
        if self.numbers is Numbers.INT8:
            return numbers
        floats = np.empty((*numbers.shape, 2), np.float32)
        floats[..., 0], floats[..., 1] = numbers & 15, numbers >> 4
        return floats.reshape(len(numbers), -1)


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


def _pairs(pairs: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Of numbers of 4 bits, two in a byte, those from start to stop."""
    if start % 2 == 0:
        return pairs[:, start // 2 : stop // 2]
    return pairs[:, start // 2 : stop // 2] >> 4 | pairs[:, start // 2 + 1 : stop // 2 + 1] << 4


def _halves(pairs: np.ndarray) -> np.ndarray:
    """Numbers of 4 bits, two neighbours in a byte, as blocks have them: of each 32 the first 16 are low bits."""
    first, second = np.moveaxis(np.ascontiguousarray(pairs).view(np.uint64).reshape(len(pairs), -1, 2), -1, 0)
    halves = np.empty((*first.shape, 8, 2), np.uint8)
    halves[..., 0] = _bytes(first & _LOW_BITS | (second & _LOW_BITS) << np.uint64(4))
    halves[..., 1] = _bytes(first >> np.uint64(4) & _LOW_BITS | second & ~_LOW_BITS)
    return halves.reshape(pairs.shape)


def _bytes(words: np.ndarray) -> np.ndarray:
    return words.view(np.uint8).reshape(*words.shape, 8)
