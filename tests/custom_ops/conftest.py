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


@pytest.fixture(
    scope="session",
    params=["native", pytest.param("avx2", marks=pytest.mark.slow), pytest.param("portable", marks=pytest.mark.slow)],
)
def kernels(request, catcher, tmp_path_factory):
    """The operators in each of the vector widths that the source knows."""
    if request.param == "native":
        library = build.build_cpu(build.DEFAULT_OUTPUT_DIR)
    elif request.param == "portable":
        library = build.build_cpu(tmp_path_factory.mktemp("portable"), portable=True)
    else:
        if not cpu_has("avx2", "fma", "f16c"):
            pytest.skip("this CPU has no AVX2")
        library = tmp_path_factory.mktemp("avx2") / build.CPU_LIBRARY_NAME
        flags = (*build.CPU_FLAGS, "-mavx2", "-mfma", "-mf16c")
        build.compile_sources(build.find_compiler(), flags, sorted(build.CPU_SOURCES.glob("*.cc")), library)
    return Kernels(library, catcher)


@pytest.fixture
def set_threads(kernels):
    """Set how many threads the operators use; afterwards as before."""
    before = kernels.num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)
