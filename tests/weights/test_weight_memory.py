"""The memory of all weights holds what it is given, apart, at the start of lines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.weight_memory import WeightMemory

DTYPES = (np.dtype(np.uint8), np.dtype(np.float16), np.dtype(np.float32), BFLOAT16)


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(1, 40), st.sampled_from(DTYPES)), max_size=12), st.randoms())
def test_all_that_was_promised_room_is_kept_apart(shapes, random):
    rng = np.random.default_rng(random.getrandbits(32))
    weights = [rng.integers(0, 100, (rows, columns)).astype(dtype) for rows, columns, dtype in shapes]
    memory = WeightMemory(weight.nbytes for weight in weights)
    held = [memory.take(weight) for weight in weights]
    for copy, weight in zip(held, weights, strict=True):
        assert (copy.dtype, copy.flags.writeable) == (weight.dtype, True)
        assert copy.size == 0 or copy.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy.view(np.uint8), weight.view(np.uint8))


def test_more_than_there_is_room_for():
    memory = WeightMemory([64, 10])
    memory.take(np.zeros(16, np.float32))
    with pytest.raises(ValueError, match="65 bytes of a weight, but 64 are left for them"):
        memory.take(np.zeros(65, np.uint8))
