"""One piece of memory for all weights that a CPU reads."""

import mmap
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from mindspore_paged.formats.weight_place import whole_lines


class WeightMemory:
    """Room for arrays of `sizes` bytes, one behind the other, each at the start of a cache line; `allocate` mutates.

    It is in pages of 2 MB where the system has them for whoever asks: a step reads every weight once, and with pages of
    4 KB the CPU spends a twentieth of that on looking up where they are.
    """

    def __init__(self, sizes: Iterable[int]):
        # Private, because memory that processes share is given no large pages.
        memory = mmap.mmap(-1, max(1, sum(map(whole_lines, sizes))), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._free = np.frombuffer(memory, np.uint8)

    def allocate(self, num_bytes: int) -> np.ndarray:
        """The next piece, uint8, all zero; raises ValueError if there is no room for it."""
        if num_bytes > len(self._free):
            raise ValueError(f"{num_bytes} bytes of a weight, but {len(self._free)} are left for them")
        piece, self._free = self._free[:num_bytes], self._free[whole_lines(num_bytes) :]
        return piece
