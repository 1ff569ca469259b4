"""Compiles the cube tests' kernels, changed ones too, over the emulator and calls them with NumPy arrays."""

import ctypes
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mindspore_paged.custom_ops.build import find_compiler
from tests.custom_ops.ascendc.emulated import EMULATOR, KERNELS, Argument, RefusedError

KERNEL_TYPES = {
    "KERNEL_TYPE_AIV_ONLY": 0,
    "KERNEL_TYPE_MIX_AIV_1_0": 1,
    "KERNEL_TYPE_AIC_ONLY": 2,
    "KERNEL_TYPE_MIX_AIC_1_2": 3,
}
FIGURES = (
    *("mte1_bytes", "mte2_bytes", "fix_bytes", "cube_instructions", "cube_macs"),
    *("peak_l1", "peak_l0a", "peak_l0b", "peak_l0c"),
)
"""What a call reports, each an integer: bytes by pipe, Mmad instructions and multiply-adds, the highest byte used."""

HEAD = '#include "kernel_operator.h"\n#include "cube_call.h"\n#include <cstdint>\n'


class _Figures(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in FIGURES)


@dataclass(frozen=True)
class Variant:
    """A kernel with some of its text changed: every pattern must occur, its first occurrence is replaced."""

    kernel: str
    changes: Sequence[tuple[str, str]] = ()
    defines: Mapping[str, str] = field(default_factory=dict)

    def source(self) -> str:
        """Give the kernel's text with its headers of this folder in place of their includes, and the changes made."""
        text = re.sub(
            r'#include "(cube_\w+\.h)"', lambda found: _without_lines(KERNELS / found[1]), _read(f"{self.kernel}.cpp")
        )
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("#include", "#pragma once")))
        for old, new in self.changes:
            if old not in text:
                raise ValueError(f"{self.kernel} does not contain {old!r}")
            text = text.replace(old, new, 1)
        return text.replace('extern "C" __global__', "__global__")

    def unit(self, entry: str) -> str:
        """Give C++ that puts the kernel into a namespace of its own and exports it as `entry`."""
        macros = "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in self.defines.items())
        forgotten = "".join(f"#undef {name}\n" for name in ("DTYPE_A", "DTYPE_C"))
        return (
            f"{macros}namespace {entry}_ {{\n{self.source()}\n}}\n{forgotten}"
            f'extern "C" int {entry}(int type, int blocks, const cube_call::Buffer* buffers, char* message,\n'
            "                        size_t capacity, cube_call::Figures* figures) {\n"
            f"  return cube_call::Call({entry}_::{self.kernel}, type, blocks, buffers, message, capacity, figures);\n"
            "}\n"
        )


def _read(name: str) -> str:
    return (KERNELS / name).read_text()


def _without_lines(path: Path) -> str:
    return "\n".join(
        line for line in path.read_text().splitlines() if not line.startswith(("#include", "#pragma once"))
    )


def compile_variants(variants: Mapping[str, Variant], folder: Path, units: int = 2) -> "CubeKernels":
    """Compile each variant under its name into one library in `folder`, `units` compilers at a time."""
    names = list(variants)
    compiler = find_compiler()
    running = []
    objects = []
    for unit in range(min(units, len(names))):
        source = folder / f"unit{unit}.cpp"
        source.write_text(HEAD + "".join(variants[name].unit(name) for name in names[unit::units]))
        objects.append(str(source.with_suffix(".o")))
        command = [*compiler, "-std=c++17", "-O0", "-fPIC", "-I", EMULATOR, "-I", KERNELS, "-c", source]
        running.append(subprocess.Popen([*map(str, command), "-o", objects[-1]], stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(errors[:4000])
    library = folder / "libcube_kernels.so"
    subprocess.run([*compiler, "-shared", *objects, "-o", str(library)], check=True)
    return CubeKernels(ctypes.CDLL(str(library)))


class CubeKernels:
    """The kernels of one compiled library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def run(
        self,
        entry: str,
        kernel_type: str,
        blocks: int,
        *arguments: tuple[str, np.ndarray, int],
    ) -> dict[str, int]:
        """Run `entry` on (name, array, role) for each of its parameters and give FIGURES.

        Raises RefusedError with the emulator's message.
        """
        buffers = [Argument(*argument).buffer() for argument in arguments]
        message = ctypes.create_string_buffer(2000)
        figures = _Figures()
        code = getattr(self._library, entry)(
            KERNEL_TYPES[kernel_type],
            blocks,
            (type(buffers[0]) * len(buffers))(*buffers),
            message,
            ctypes.c_size_t(len(message)),
            ctypes.byref(figures),
        )
        if code != 0:
            raise RefusedError(message.value.decode())
        return {name: getattr(figures, name) for name in FIGURES}


def pack(*values: int) -> np.ndarray:
    """Give a tiling struct of uint32 members."""
    return np.array(values, np.uint32)


def raw_operand(elements: int, **changes: int) -> list[int]:
    """Give a CubeRawOperand that loads all `elements` as one instruction without changes; `changes` are its members."""
    members = {
        **{"elements": elements, "load": 0, "outer": 1, "src_step": 0, "dst_step": 0},
        **{"start_index": 0, "repeat": 1, "src_stride": 1, "dst_gap": 0, "dst_frac_gap": 0},
    }
    if changes.keys() - members.keys():
        raise ValueError(f"no members {changes.keys() - members.keys()}")
    return list((members | changes).values())
