"""The libraries of CPU operators that tests run: that of this CPU, and those for CPUs that can do less."""

import os
import platform
from pathlib import Path

from mindspore_paged.custom_ops import build

LIBRARY_VARIABLE = "PAGED_OPS_TESTED_LIBRARY"
"""Names a library that is tested in place of this CPU's: one with sanitizers (sanitize.py)."""

# Whatever else the machine's CPU can do, the source must not know.
AVX512_FLAGS = ("-march=native", "-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
AVX512_FLAGS += ("-mno-avx512vnni", "-mno-avxvnni", "-mno-avx512bf16")
LESS_THAN_NATIVE = {
    "vnni": (("avx512f", "avx512vl", "avx512bw", "avx512_vnni", "amx_int8"), AVX512_FLAGS[:4]),
    "avx512": (("avx512f", "avx512vl", "avx512bw", "avx512_vnni"), AVX512_FLAGS),
    "avx2": (("avx2", "fma", "f16c", "avx512f"), ("-mavx2", "-mfma", "-mf16c")),
}
"""Builds for CPUs that can do less than this one: what this one must have to run them, and the compiler's flags."""


def cpu_has(*features: str) -> bool:
    return platform.machine() == "x86_64" and set(features) <= set(build.cpu_model().split())


def native_library() -> Path:
    """This CPU's, compiled if need be, or what LIBRARY_VARIABLE names."""
    given = os.environ.get(LIBRARY_VARIABLE)
    return Path(given) if given else build.build_cpu(build.DEFAULT_OUTPUT_DIR)
