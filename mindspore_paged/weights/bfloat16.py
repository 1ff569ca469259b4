"""One bfloat16 for NumPy arrays: that of ml_dtypes."""

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def with_common_bfloat16(values: np.ndarray) -> np.ndarray:
    """`values` with any other library's bfloat16 seen as that of ml_dtypes; no copy is made.

    MindSpore registers a bfloat16 of its own with NumPy. It has the same name and the same bits, but NumPy neither
    compares nor converts the two, and once MindSpore is imported other libraries may return either.
    """
    return values.view(np.uint16).view(BFLOAT16) if values.dtype.name == "bfloat16" else values
