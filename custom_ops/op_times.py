"""What the CPU operators count of themselves, and what the machine could do at best: no MindSpore in here."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from mindspore_paged.custom_ops.build import library_function

OP_GROUPS = ("embedding", "qkv", "cache_write", "attention", "attention_output", "gate_up", "down", "lm_head")
"""What is timed, in the order of cpu/runtime/op_times.h.

qkv: norms, projections, rotary positions, writing the pages. cache_write: where that is an operator of its own.
attention_output: o_proj. gate_up: norm, both projections, activation. lm_head: norm and head.
"""

READ_BYTES = 256 * 2**20  # far more than a last-level cache holds
MULTIPLIED_VECTORS = 100_000_000  # of each thread: some tens of milliseconds
ATTEMPTS = 3


@dataclass(frozen=True)
class OpTime:
    """All calls of a group of operators: bytes of weights and pages read or written, multiplications with an addition.

    Tokens that pad a graph count where they are multiplied like others, which a step that is one operator does not do.
    """

    calls: int
    seconds: float
    bytes: int
    products: int


@dataclass(frozen=True)
class MachineSpeed:
    """What all threads together reach at best: bytes read from memory, and float32 operations, a second."""

    bytes_per_second: float
    flops_per_second: float

    def floor_seconds(self, num_bytes: float, products: float) -> float:
        """The least time in which bytes can be read and products (2 operations each) computed, one beside the other."""
        return max(num_bytes / self.bytes_per_second, 2 * products / self.flops_per_second)


def take_op_times(library: Path) -> dict[str, OpTime]:
    """Each of OP_GROUPS since this was last called, which starts the counts anew; library: see `cpu_library`.

    Counts are those of this process. Raises BuildError if the library is of an older version.
    """
    counts = np.zeros((len(OP_GROUPS), 4), np.int64)
    take = library_function(library, "PagedOpsTakeTimes")
    take.restype = None
    take(ctypes.c_void_p(counts.ctypes.data))
    return {
        name: OpTime(calls, nanoseconds / 1e9, num_bytes, products)
        for name, (calls, nanoseconds, num_bytes, products) in zip(OP_GROUPS, counts.tolist(), strict=True)
    }


def measure_machine(library: Path) -> MachineSpeed:
    """The best of a few attempts each, with the operators' own threads; takes half a second, raises BuildError."""
    read, rate = library_function(library, "ReadFloats"), library_function(library, "MultiplyAddRate")
    read.restype, rate.restype = ctypes.c_float, ctypes.c_double
    floats = np.ones(READ_BYTES // 4, np.float32)
    address, count = ctypes.c_void_p(floats.ctypes.data), ctypes.c_int64(floats.size)
    shortest = min(_seconds(lambda: read(address, count)) for _ in range(ATTEMPTS))
    gflops = max(rate(ctypes.c_int64(MULTIPLIED_VECTORS)) for _ in range(ATTEMPTS))
    return MachineSpeed(READ_BYTES / shortest, gflops * 1e9)


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
