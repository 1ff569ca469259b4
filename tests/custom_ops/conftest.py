"""The compiled operators as fixtures."""

import pytest

from mindspore_paged.custom_ops import build
from tests.custom_ops.kernel_builds import LOWER_LEVELS, native_library
from tests.custom_ops.kernel_calls import Kernels, build_catcher


@pytest.fixture(scope="session")
def catcher(tmp_path_factory):
    return build_catcher(tmp_path_factory.mktemp("catcher"))


@pytest.fixture(
    scope="session",
    params=[None, *(pytest.param(level, marks=pytest.mark.slow) for level in LOWER_LEVELS)],
    ids=["native", *(level.name for level in LOWER_LEVELS)],
)
def kernels(request, catcher):
    """The operators in each of the vector widths, and ways to multiply, that this CPU can run."""
    level = request.param
    return Kernels(build.build_cpu(build.DEFAULT_OUTPUT_DIR, level) if level else native_library(), catcher)


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
