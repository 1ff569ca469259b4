"""The libraries of CPU operators that tests run: that of this CPU, and those for CPUs that can do less."""

import os
from pathlib import Path

from mindspore_paged.custom_ops import build

LIBRARY_VARIABLE = "PAGED_OPS_TESTED_LIBRARY"
"""Names a library that is tested in place of this CPU's: one with sanitizers (sanitize.py)."""

NATIVE, *LOWER_LEVELS = build.runnable_levels()
"""The level that is run here, and those for CPUs that can do less, best first; none where PAGED_OPS_ISA names one."""


def native_library() -> Path:
    """This CPU's, compiled if need be, or what LIBRARY_VARIABLE names."""
    given = os.environ.get(LIBRARY_VARIABLE)
    return Path(given) if given else build.build_cpu(build.DEFAULT_OUTPUT_DIR)
