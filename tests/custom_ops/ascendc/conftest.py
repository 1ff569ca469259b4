"""The emulated operators as a fixture."""

import pytest

from mindspore_paged.custom_ops import build, build_emulator
from tests.custom_ops.ascendc.emulated_ops import EmulatedOps


@pytest.fixture(scope="session")
def emulated(catcher):
    return EmulatedOps(build_emulator.build_emulator(build.DEFAULT_OUTPUT_DIR), catcher)
