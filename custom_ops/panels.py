"""Weights in the order in which the CPU's layer operators read them: no MindSpore in here."""

import ctypes
import hashlib
from pathlib import Path

import numpy as np

from mindspore_paged.custom_ops.build import library_function
from mindspore_paged.formats.weight_format import FORMATS


def arrange_panels(rows: np.ndarray, kind: int, num_columns: int, library: Path) -> np.ndarray:
    """Rows of weights in panels of 16 (cpu/linear/panels.h): an array of the same shape and bytes in another order.

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


def panel_order(library: Path) -> str:
    """Digest of the order that a library gives to weights of every kind: equal where it is the same."""
    digest = hashlib.sha256()
    generator = np.random.default_rng(0)
    for form in sorted(FORMATS.values(), key=lambda form: form.kind):
        for num_columns in (form.group, 2 * form.group) if form.block_bytes else (24, 64):
            num_rows, num_bytes = 40, form.num_bytes((40, num_columns))
            rows = np.frombuffer(generator.bytes(num_bytes), form.dtype).reshape(num_rows, -1)
            digest.update(arrange_panels(rows, form.kind, num_columns, library).tobytes())
    return digest.hexdigest()
