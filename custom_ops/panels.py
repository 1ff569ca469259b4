"""Weights in the order in which the CPU's layer operators read them: no MindSpore in here."""

import ctypes
from pathlib import Path

import numpy as np

from mindspore_paged.custom_ops.build import library_function


def arrange_panels(
    rows: np.ndarray,
    kind: int,
    num_columns: int,
    library: Path,
    order: np.ndarray | None = None,
    target: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of weights in panels of 16 (cpu/linear/panels.h): the same rows and bytes in another order.

    rows: [N, num_columns] float32, float16 or bfloat16, or uint8 [N, bytes of a row's blocks], read where they are by
    as many threads as there are cores; kind: GGML's number for them; library: see `cpu_library`. order: int64, the rows
    that are wanted, one after the other; default: all. target: where to, contiguous; default: an array of its own.
    Returns the target. Raises BuildError if the library is of an older version.
    """
    row_bytes = rows.shape[1] * rows.itemsize
    if rows.strides[1] != rows.itemsize or rows.strides[0] < 0:
        rows = np.ascontiguousarray(rows)
    num_rows = len(rows)
    if order is not None:
        order, num_rows = np.ascontiguousarray(order, np.int64), len(order)
        if num_rows and not 0 <= order.min() <= order.max() < len(rows):
            raise ValueError(f"rows {order.min()} to {order.max()} of {len(rows)}")
    if target is None:
        target = np.empty((num_rows, rows.shape[1]), rows.dtype)
    if target.shape != (num_rows, rows.shape[1]) or target.dtype != rows.dtype or not target.flags.c_contiguous:
        raise ValueError(f"{num_rows} rows of {rows.shape[1]} {rows.dtype} into {target.shape} {target.dtype}")
    arrange = library_function(library, "PagedOpsArrangeRows")
    arrange.restype = None
    arrange(
        ctypes.c_void_p(rows.ctypes.data), ctypes.c_int64(rows.strides[0]),
        ctypes.c_void_p(None if order is None else order.ctypes.data), ctypes.c_void_p(target.ctypes.data),
        ctypes.c_int64(num_rows), ctypes.c_int64(row_bytes), ctypes.c_int64(num_columns), ctypes.c_int64(kind),
    )  # fmt: skip
    return target
