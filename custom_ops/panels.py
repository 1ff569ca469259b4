"""Weights in the order in which the CPU's layer operators read them: no MindSpore in here."""

import ctypes
from pathlib import Path

import numpy as np

from mindspore_paged.custom_ops.build import library_function


def arrange_panels(rows: np.ndarray, kind: int, num_columns: int, library: Path) -> np.ndarray:
    """Rows of weights in panels of 16 (cpu/panels.h): an array of the same shape, dtype and bytes in another order.

    rows: [N, num_columns] float32, float16 or bfloat16, or uint8 [N, bytes of a row's blocks]; kind: GGML's number for
    them; library: see `cpu_library`. Raises BuildError if that is of an older version.
    """
    source, target = np.ascontiguousarray(rows), np.empty(rows.shape, rows.dtype)
    arrange = library_function(library, "PagedOpsArrangePanels")
    arrange.restype = None
    num_rows = len(source)
    arrange(
        ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(target.ctypes.data), ctypes.c_int64(num_rows),
        ctypes.c_int64(source.nbytes // max(1, num_rows)), ctypes.c_int64(num_columns), ctypes.c_int64(kind),
    )  # fmt: skip
    return target
