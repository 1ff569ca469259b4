"""The Ascend C operators on the emulated chip, called without a graph."""

import ctypes
import json
from contextlib import contextmanager

from tests.custom_ops.kernel_calls import Kernels

TILING_CHOOSES, VECTOR_VARIANT, CUBE_VARIANT = 0, 1, 2
"""Which paged_attention runs."""
DEFAULT_CHIP = (40, 20, TILING_CHOOSES)
"""Vector and cube cores of a 910B3."""


class EmulatedOps(Kernels):
    """The operators of the emulator's library; counts what the newest call moved."""

    def __init__(self, library, catcher):
        super().__init__(library, catcher)
        self._library.EmulatorReport.restype = ctypes.c_char_p

    @contextmanager
    def chip(self, vector_cores, cube_cores, variant=TILING_CHOOSES):
        """Run on a chip with so many cores."""
        self._library.EmulatorSetChip(vector_cores, cube_cores, variant)
        try:
            yield
        finally:
            self._library.EmulatorSetChip(*DEFAULT_CHIP)

    @contextmanager
    def indices_trusted(self):
        """Let paged_attention run without a check of its indices, as on the chip."""
        self._library.EmulatorTrustIndices(1)
        try:
            yield
        finally:
            self._library.EmulatorTrustIndices(0)

    def report(self):
        """Figures of the newest call, as `custom_ops/ascendc/emulator/ops/chip.cc` names them."""
        return json.loads(self._library.EmulatorReport())

    def number(self, name):
        """A variable of the library, a C int whose `value` can be set."""
        return ctypes.c_int.in_dll(self._library, name)
