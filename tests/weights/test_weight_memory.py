"""The memory of all weights gives out pieces that are apart, empty, and start at lines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.weights.weight_memory import WeightMemory


@given(st.lists(st.integers(0, 3000), max_size=12))
def test_all_that_was_promised_room_is_kept_apart(sizes):
    memory = WeightMemory(sizes)
    pieces = [memory.allocate(size) for size in sizes]
    for number, (piece, size) in enumerate(zip(pieces, sizes, strict=True)):
        assert (piece.dtype, piece.shape, piece.flags.writeable) == (np.uint8, (size,), True)
        assert size == 0 or piece.ctypes.data % 64 == 0
        assert not piece.any()
        piece[...] = number + 1
    for number, piece in enumerate(pieces):
        assert (piece == number + 1).all()


def test_more_than_there_is_room_for():
    memory = WeightMemory([64, 10])
    memory.allocate(64)
    with pytest.raises(ValueError, match="65 bytes of a weight, but 64 are left for them"):
        memory.allocate(65)
