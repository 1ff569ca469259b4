"""Where a model holds a weight: in a Parameter of its own, or beside others in one."""

from collections.abc import Callable, Iterable, Iterator
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

    parameter: MindSpore's; it has the weight's shape and type, or is uint8 [bytes] and holds several.
    """

    parameter: Any
    form: WeightFormat
    stored_shape: tuple[int, ...]
    offset: int = 0

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
        if self.is_alone:
            return self.parameter.flatten()[:count].asnumpy().tobytes()
        return self.parameter[self.offset : self.offset + count * self.form.dtype.itemsize].asnumpy().tobytes()


def whole_lines(num_bytes: int) -> int:
    """As many bytes as the lines have that `num_bytes` touch."""
    return -(-num_bytes // LINE_BYTES) * LINE_BYTES


def values_of_parameters(
    places: Iterable[tuple[str, WeightPlace]], read: Callable[[str], np.ndarray], allocate: Callable[[int], np.ndarray]
) -> Iterator[tuple[Any, np.ndarray]]:
    """Each Parameter with its value, one at a time, made of the weights that it holds.

    places: by name, those of one Parameter together; read: a weight as it is stored in memory; allocate: bytes ->
    memory for them, uint8, all zero.
    """
    for _, together in groupby(places, key=lambda item: id(item[1].parameter)):
        memory = None
        for name, place in together:
            memory = allocate(place.parameter.nbytes) if memory is None else memory
            place.within(memory)[...] = read(name)
        yield place.parameter, place.within(memory) if place.is_alone else memory
