"""The emulated operators, and op_host's, as fixtures."""

import pytest

from mindspore_paged.custom_ops import build, build_emulator
from tests.custom_ops.ascendc.emulated_ops import EmulatedOps
from tests.custom_ops.ascendc.op_host_calls import OP_HOST, compile_driver, describe


@pytest.fixture(scope="session")
def emulated(catcher):
    return EmulatedOps(build_emulator.build_emulator(build.DEFAULT_OUTPUT_DIR), catcher)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """The program that runs op_host."""
    return compile_driver(tmp_path_factory.mktemp("op_host") / "driver", sorted(OP_HOST.glob("*.cpp")))


@pytest.fixture(scope="session")
def definitions(driver):
    """What each op of op_host defines, by its name."""
    return describe(driver)
