"""The compiled operators as fixtures."""

import platform

import pytest

from mindspore_paged.custom_ops import build
from tests.custom_ops.kernel_calls import Kernels, build_catcher


def cpu_has(*features):
    return platform.machine() == "x86_64" and set(features) <= set(build.cpu_model().split())


@pytest.fixture(scope="session")
def catcher(tmp_path_factory):
    return build_catcher(tmp_path_factory.mktemp("catcher"))


# Whatever else the machine's CPU can do, the source must not know.
AVX512_FLAGS = ("-march=native", "-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16", "-mno-avx512vnni", "-mno-avxvnni")
LESS_THAN_NATIVE = {
    "vnni": (("avx512f", "avx512vl", "avx512bw", "avx512_vnni", "amx_int8"), AVX512_FLAGS[:4]),
    "avx512": (("avx512f", "avx512vl", "avx512bw", "avx512_vnni"), AVX512_FLAGS),
    "avx2": (("avx2", "fma", "f16c"), ("-mavx2", "-mfma", "-mf16c")),
}
"""Builds for CPUs that can do less than this one: what this one must have to run them, and the compiler's flags."""


@pytest.fixture(
    scope="session",
    params=["native", *(pytest.param(name, marks=pytest.mark.slow) for name in (*LESS_THAN_NATIVE, "portable"))],
)
def kernels(request, catcher, tmp_path_factory):
    """The operators in each of the vector widths, and ways to multiply, that the source knows."""
    if request.param == "native":
        library = build.build_cpu(build.DEFAULT_OUTPUT_DIR)
    elif request.param == "portable":
        library = build.build_cpu(tmp_path_factory.mktemp("portable"), portable=True)
    else:
        features, flags = LESS_THAN_NATIVE[request.param]
        if not cpu_has(*features):
            pytest.skip(f"this CPU does not have all of {', '.join(features)}, or no more than that")
        library = tmp_path_factory.mktemp(request.param) / build.CPU_LIBRARY_NAME
        sources = sorted(build.CPU_SOURCES.glob("*.cc"))
        build.compile_sources(build.find_compiler(), (*build.CPU_FLAGS, *flags), sources, library)
    return Kernels(library, catcher)


@pytest.fixture
def tiles(kernels):
    """Operators that use matrix tiles, which the test may switch off."""
    if not kernels.has_tiles:
        pytest.skip("no matrix tiles: the CPU has none, or the build or Linux does not use them")
    yield kernels
    kernels.use_tiles(True)


@pytest.fixture
def set_threads(kernels):
    """Set how many threads the operators use; afterwards as before."""
    before = kernels.num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)
