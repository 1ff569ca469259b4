"""The compiled operators as fixtures."""

import pytest

from mindspore_paged.custom_ops import build
from tests.custom_ops.kernel_builds import LESS_THAN_NATIVE, cpu_has, native_library
from tests.custom_ops.kernel_calls import Kernels, build_catcher


@pytest.fixture(scope="session")
def catcher(tmp_path_factory):
    return build_catcher(tmp_path_factory.mktemp("catcher"))


@pytest.fixture(
    scope="session",
    params=["native", *(pytest.param(name, marks=pytest.mark.slow) for name in LESS_THAN_NATIVE)],
)
def kernels(request, catcher, tmp_path_factory):
    """The operators in each of the vector widths, and ways to multiply, that the source knows.

    The build for any CPU of an architecture passes the same tests under the sanitizers (test_sanitizers.py).
    """
    if request.param == "native":
        library = native_library()
    else:
        features, flags = LESS_THAN_NATIVE[request.param]
        if not cpu_has(*features):
            pytest.skip(f"this CPU does not have all of {', '.join(features)}, or no more than that")
        library = tmp_path_factory.mktemp(request.param) / build.CPU_LIBRARY_NAME
        all_flags = (*build.CPU_FLAGS, *flags, f"-I{build.OPS_ROOT}")
        build.compile_sources(build.find_compiler(), all_flags, build.cpu_units(), library)
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
