"""Compiles one cache kernel over the emulator, changed where a test says so, and calls it without any check before."""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mindspore_paged.custom_ops.build import find_compiler

HERE = Path(__file__).parent
OP_KERNEL = HERE.parents[2] / "custom_ops" / "ascendc" / "op_kernel"
EMULATOR = OP_KERNEL.parent / "emulator"
SHAPES = {"reshape_and_cache": "6I", "copy_blocks": "I4xQI4x", "read_blocks": "I4xQI4x", "write_blocks": "I4xQ2I"}
"""How the shapes of an operator's tiling header lie in memory."""


class KernelRefusedError(Exception):
    """The emulator refused the kernel; the message is its own."""


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("writable", ctypes.c_int32),
    )


@dataclass(frozen=True)
class CacheKernel:
    """A kernel and the element types that it is compiled for."""

    op: str
    types: Mapping[str, str] = field(default_factory=dict)

    def compile(self, folder: Path, changed: Mapping[str, str] = {}) -> "CompiledKernel":
        """Compile a copy of the sources in which the files in `changed` have these other texts."""
        for source in OP_KERNEL.iterdir():
            shutil.copy(source, folder)
        for name, text in changed.items():
            (folder / name).write_text(text)
        camel = "".join(word.capitalize() for word in self.op.split("_"))
        unit = folder / "unit.cpp"
        unit.write_text(
            f'#include "{self.op}_custom.cpp"\n#include "cache_kernel_call.h"\n'
            f"CACHE_KERNEL_CALL({self.op}_custom, Make{camel}Launch, {camel}Shapes)\n"
        )
        library = folder / "libkernel.so"
        flags = ["-std=c++17", "-O0", "-fPIC", "-shared", *(f"-D{macro}={name}" for macro, name in self.types.items())]
        folders = [f"-I{path}" for path in (folder, HERE, EMULATOR)]
        subprocess.run([*find_compiler(), *flags, *folders, str(unit), "-o", str(library)], check=True)
        return CompiledKernel(self.op, ctypes.CDLL(str(library)))


class CompiledKernel:
    """A kernel's library."""

    def __init__(self, op: str, library: ctypes.CDLL):
        self._op = op
        self._library = library

    def call(self, shapes: tuple[int, ...], cores: int, **buffers: np.ndarray) -> None:
        """Run on so many cores; `buffers` by name, in the kernel's order. Raises KernelRefusedError."""
        given = (_Buffer * len(buffers))(
            *(
                _Buffer(name.encode(), array.ctypes.data, array.nbytes, array.flags.writeable)
                for name, array in buffers.items()
            )
        )
        message = ctypes.create_string_buffer(4096)
        packed = struct.pack(SHAPES[self._op], *shapes)
        if self._library.CallKernel(packed, cores, given, message, ctypes.c_size_t(len(message))) != 0:
            raise KernelRefusedError(message.value.decode())
