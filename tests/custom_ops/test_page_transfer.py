"""read_blocks and write_blocks against NumPy, and what they refuse."""

import numpy as np
import pytest

from tests.custom_ops.kernel_calls import CACHE_DTYPES, OpRefusedError, assert_same_bits

SHAPE = NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM = 5, 16, 2, 6


def random_caches(dtype, *leading):
    return (np.random.default_rng(0).normal(size=(*leading, *SHAPE)) * 30).astype(dtype)


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
def test_blocks_are_read_as_they_are(kernels, dtype):
    keys, values = random_caches(dtype, 2)
    ids = np.array([3, 0, 3, 4], np.int32)
    output = np.empty((2, 4, *SHAPE[1:]), dtype)
    kernels.call("ReadBlocks", keys, values, ids, output)
    assert_same_bits(output, np.stack([keys[ids], values[ids]]))


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("layer", [0, 2])
def test_blocks_are_written_where_they_belong_and_nowhere_else(kernels, dtype, layer):
    keys, values = random_caches(dtype, 2)
    pages = (np.random.default_rng(1).normal(size=(3, 2, 4, *SHAPE[1:])) * 30).astype(dtype)
    ids = np.array([1, -1, 4, 0], np.int32)
    expected = np.stack([keys, values])
    expected[:, [1, 4, 0]] = pages[layer][:, [0, 2, 3]]
    kernels.call("WriteBlocks", keys, values, pages, ids, np.array(layer), np.empty(1, np.int32))
    assert_same_bits(np.stack([keys, values]), expected)


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
def test_blocks_of_several_layers_are_read_layer_by_layer(kernels, dtype):
    keys, values = random_caches(dtype, 2, 3)
    ids = np.array([3, 0, 3, 4], np.int32)
    output = np.empty((3, 2, 4, *SHAPE[1:]), dtype)
    kernels.call("ReadBlocks", keys, values, ids, output)
    assert_same_bits(output, np.stack([keys[:, ids], values[:, ids]], axis=1))


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("layer", [0, 1])
def test_blocks_of_several_layers_are_written_from_the_first_one_on(kernels, dtype, layer):
    keys, values = random_caches(dtype, 2, 3)
    pages = (np.random.default_rng(1).normal(size=(4, 2, 4, *SHAPE[1:])) * 30).astype(dtype)
    ids = np.array([1, -1, 4, 0], np.int32)
    expected = np.stack([keys, values])
    expected[:, :, [1, 4, 0]] = pages[layer : layer + 3, :, [0, 2, 3]].swapaxes(0, 1)
    kernels.call("WriteBlocks", keys, values, pages, ids, np.array(layer), np.empty(1, np.int32))
    assert_same_bits(np.stack([keys, values]), expected)


@pytest.mark.parametrize(
    ("layer", "values_of", "message"),
    [
        (2, slice(None), r"layer 2 is outside \[0, 2\)"),
        (-1, slice(None), r"layer -1 is outside \[0, 2\)"),
        (0, slice(2), r"value_cache has shape \[2, 5, 16, 2, 6\], it must be \[3, 5, 16, 2, 6\]"),
        (0, 0, r"value_cache has shape \[5, 16, 2, 6\], its rank must be 5"),
    ],
)
def test_several_layers_beyond_those_of_the_pages_are_refused(kernels, layer, values_of, message):
    keys, values = random_caches(np.float32, 2, 3)
    before = keys.copy(), values.copy()
    pages, ids = np.ones((4, 2, 1, *SHAPE[1:]), np.float32), np.array([1], np.int32)
    with pytest.raises(OpRefusedError, match=f"^write_blocks: {message}"):
        kernels.call("WriteBlocks", keys, values[values_of], pages, ids, np.array(layer), np.empty(1, np.int32))
    assert_same_bits(keys, before[0])
    assert_same_bits(values, before[1])


def test_what_is_read_of_several_layers_has_one_shape(kernels):
    keys, values = random_caches(np.float32, 2, 3)
    output = np.zeros((2, 3, 1, *SHAPE[1:]), np.float32)
    with pytest.raises(OpRefusedError, match=r"^read_blocks: output has shape \[2, 3, 1, 16, 2, 6\], it must be \[3"):
        kernels.call("ReadBlocks", keys, values, np.array([1], np.int32), output)
    assert not output.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array([0, 5], np.int32)}, r"place 1: block 5 is outside \[-1, 5\)"),
        ({"ids": np.array([-2, 0], np.int32)}, r"place 0: block -2 is outside \[-1, 5\)"),
        (
            {"pages": np.zeros((3, 2, 2, *SHAPE[1:]), np.int8)},
            "pages has dtype int8, it must be that of key_cache, float32",
        ),
        ({"layer": np.array(3)}, r"layer 3 is outside \[0, 3\)"),
        ({"layer": np.array(-1)}, r"layer -1 is outside \[0, 3\)"),
        ({"layer": np.array(0, np.int32)}, "layer has dtype int32, allowed: int64"),
        ({"pages": np.zeros((3, 2, 1, *SHAPE[1:]), np.float32)}, "pages has shape"),
        (
            {"pages": np.zeros((3, 2, 2, *SHAPE[1:]), np.float16)},
            "pages has dtype float16, it must be that of key_cache",
        ),
    ],
)
def test_a_bad_write_is_refused_and_writes_nothing(kernels, changes, message):
    keys, values = random_caches(np.float32, 2)
    before = keys.copy(), values.copy()
    inputs = {
        "pages": np.ones((3, 2, 2, *SHAPE[1:]), np.float32),
        "ids": np.array([1, 2], np.int32),
        "layer": np.array(1),
    } | changes
    with pytest.raises(OpRefusedError, match=f"^write_blocks: {message}"):
        kernels.call("WriteBlocks", keys, values, *inputs.values(), np.empty(1, np.int32))
    assert_same_bits(keys, before[0])
    assert_same_bits(values, before[1])


@pytest.mark.parametrize("block_id", [-1, 5])
def test_a_read_outside_the_pool_is_refused(kernels, block_id):
    keys, values = random_caches(np.float32, 2)
    output = np.zeros((2, 1, *SHAPE[1:]), np.float32)
    with pytest.raises(OpRefusedError, match=rf"^read_blocks: place 0: block {block_id} is outside \[0, 5\)"):
        kernels.call("ReadBlocks", keys, values, np.array([block_id], np.int32), output)
    assert not output.any()
