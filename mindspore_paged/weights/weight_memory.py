"""One piece of memory for all weights that a CPU reads."""

import mmap
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

LINE_BYTES = 64


class WeightMemory:
    """Room for arrays of `sizes` bytes, one behind the other, each at the start of a cache line; `take` mutates.

    It is in pages of 2 MB where the system has them for whoever asks: a step reads every weight once, and with pages of
    4 KB the CPU spends a twentieth of that on looking up where they are.
    """

    def __init__(self, sizes: Iterable[int]):
        # Private, because memory that processes share is given no large pages.
        memory = mmap.mmap(-1, max(1, sum(map(_whole_lines, sizes))), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._free = np.frombuffer(memory, np.uint8)

    def take(self, values: np.ndarray) -> np.ndarray:
        """A copy of `values` in the memory; raises ValueError if there is no room for it."""
        if values.nbytes > len(self._free):
            raise ValueError(f"{values.nbytes} bytes of a weight, but {len(self._free)} are left for them")
        copy = self._free[: values.nbytes].view(values.dtype).reshape(values.shape)
        self._free = self._free[_whole_lines(values.nbytes) :]
        copy[...] = values
        return copy


def _whole_lines(num_bytes: int) -> int:
    return -(-num_bytes // LINE_BYTES) * LINE_BYTES
