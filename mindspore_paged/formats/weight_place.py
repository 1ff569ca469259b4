"""Where a model holds a weight: in a Parameter of its own, or beside others in one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from mindspore_paged.formats.weight_format import WeightFormat

LINE_BYTES = 64
"""Weights that share memory start at multiples of it: at lines of a CPU's cache."""


@dataclass(frozen=True)
class WeightPlace:
    """A weight of `stored_shape` in `form`, from `offset` bytes of `parameter` on.

    parameter: MindSpore's; it has the weight's shape and type, or holds several: as uint8 [bytes], or weights of its
    own type, one behind the other. shared_as: its name then.
    """

    parameter: Any
    form: WeightFormat
    stored_shape: tuple[int, ...]
    offset: int = 0
    shared_as: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that a checkpoint has it in."""
        return self.form.logical_shape(self.stored_shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.form.num_bytes(self.shape)

    @property
    def is_alone(self) -> bool:
        """Whether the Parameter is this weight and no other."""
        return tuple(self.parameter.shape) == tuple(self.stored_shape)

    @property
    def is_among_equals(self) -> bool:
        """Whether the Parameter holds several weights, or parts without one, as numbers of this one's type."""
        return not self.is_alone and self.form.dtype.itemsize * math.prod(self.parameter.shape) == self.parameter.nbytes

    def within(self, memory: np.ndarray) -> np.ndarray:
        """The weight's part of the Parameter's memory, uint8 [bytes], in its own shape and type."""
        part = memory[self.offset : self.offset + self.nbytes]
        return part.view(self.form.dtype).reshape(self.stored_shape)

    def beginning(self, count: int, on_host: bool = False) -> bytes:
        """The first `count` of its numbers as the Parameter has them now.

        on_host: the Parameter is in this process's memory, which is looked at as it is; from a device no more than the
        beginning is fetched, by operators that take a millisecond.
        """
        if on_host:
            memory = self.parameter.asnumpy().reshape(-1).view(np.uint8)
            return memory[self.offset : self.offset + count * self.form.dtype.itemsize].tobytes()
        itemsize = self.form.dtype.itemsize
        if self.is_alone or self.is_among_equals:
            first = self.offset // itemsize
            return self.parameter.flatten()[first : first + count].asnumpy().tobytes()
        return self.parameter[self.offset : self.offset + count * itemsize].asnumpy().tobytes()

    def whole(self, memory: np.ndarray) -> np.ndarray:
        """The Parameter's memory, uint8 [bytes], in the Parameter's shape and type."""
        return memory.view(self.form.dtype).reshape(self.parameter.shape) if self.is_among_equals else memory


def whole_lines(num_bytes: int) -> int:
    """As many bytes as the lines have that `num_bytes` touch."""
    return -(-num_bytes // LINE_BYTES) * LINE_BYTES


@dataclass(frozen=True)
class Room:
    """Memory for a Parameter's value, and in it that of each weight that the Parameter holds, by name."""

    parameter: Any
    value: np.ndarray
    weights: dict[str, np.ndarray]


def rooms_of_parameters(places: dict[str, WeightPlace], allocate: Callable[[int], np.ndarray]) -> Iterator[Room]:
    """The room of each Parameter, one at a time.

    places: by name, those of one Parameter together; allocate: bytes -> memory for them, uint8, all zero.
    """
    for _, items in groupby(places.items(), key=lambda item: id(item[1].parameter)):
        together = dict(items)
        first = next(iter(together.values()))
        memory = allocate(first.parameter.nbytes)
        weights = {name: place.within(memory) for name, place in together.items()}
        yield Room(first.parameter, first.within(memory) if first.is_alone else first.whole(memory), weights)


def put(weight: np.ndarray, order: np.ndarray | None, target: np.ndarray | None) -> np.ndarray:
    """A weight, or those rows of it, as it is: in `target`, where one is given."""
    rows = weight if order is None else weight[order]
    if target is None:
        return rows
    target[...] = rows
    return target
