"""Compiles Ascend C kernels over the emulator, and calls them with NumPy arrays."""

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindspore_paged.custom_ops.build import find_compiler

HERE = Path(__file__).parent
KERNELS = HERE / "kernels"
EMULATOR = HERE.parents[2] / "custom_ops" / "ascendc" / "emulator"

AIV_ONLY, MIX_AIV_1_0 = 0, 1
"""Kernel types without cube cores, as the emulator numbers them."""

READ_ONLY, WRITTEN, WORKSPACE = range(3)
"""What a kernel may do with a buffer; a workspace starts without contents."""

FIGURES = (
    *("mte2_bytes", "mte3_bytes", "mte2_copies", "mte3_copies"),
    *("scalar_bytes_read", "scalar_bytes_written", "scalar_local_reads"),
    *("vector_instructions", "vector_repeats", "peak_ub", "slowest_mte2_bytes", "slowest_vector_repeats"),
)
"""What a call reports, each an integer."""


class RefusedError(Exception):
    """The emulator refused a kernel; the text is its message."""


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("role", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Argument:
    """A contiguous array and what a kernel may do with it."""

    name: str
    array: np.ndarray
    role: int = READ_ONLY

    def buffer(self) -> _Buffer:
        """Give the array as the library takes it."""
        return _Buffer(self.name.encode(), self.array.ctypes.data, self.array.nbytes, self.role)


def start_build(source: Path, library: Path, *flags: str) -> subprocess.Popen:
    """Start to compile `source` over the emulator into `library`."""
    command = [*find_compiler(), "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", *flags]
    command += ["-I", str(EMULATOR), "-I", str(KERNELS), str(source), "-o", str(library)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def load_library(build: subprocess.Popen, library: Path) -> ctypes.CDLL:
    """Wait for a build and load what it made; raises RuntimeError with the compiler's text."""
    _, errors = build.communicate()
    if build.returncode != 0:
        raise RuntimeError(errors)
    return ctypes.CDLL(str(library))


def names(library: ctypes.CDLL, function: str) -> list[str]:
    """List the names that a library's function gives, separated by spaces."""
    listed = getattr(library, function)
    listed.restype = ctypes.c_char_p
    return listed().decode().split()


def call_kernel(
    library: ctypes.CDLL,
    kernel: str,
    arguments: Sequence[Argument],
    kernel_type: int = AIV_ONLY,
    blocks: int = 1,
    strict: bool = True,
) -> dict[str, int]:
    """Run a kernel on `blocks` cores, arrays written in place, and give its figures; raises RefusedError."""
    buffers = (_Buffer * len(arguments))(*(argument.buffer() for argument in arguments))
    message = ctypes.create_string_buffer(4096)
    figures = (ctypes.c_uint64 * len(FIGURES))()
    call = getattr(library, f"{kernel}_call")
    code = call(
        ctypes.c_int(kernel_type),
        ctypes.c_int(blocks),
        buffers,
        ctypes.c_int(len(arguments)),
        ctypes.c_bool(strict),
        message,
        ctypes.c_size_t(len(message)),
        figures,
    )
    if code != 0:
        raise RefusedError(message.value.decode())
    return dict(zip(FIGURES, figures, strict=True))
