"""Pages that lie further into a cache than 32 bits count, in elements and in bytes, on the emulated chip.

The caches are files with holes: they take room where something is written alone.
"""

from functools import partial

import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, VECTOR_VARIANT
from tests.custom_ops.ascendc.test_paged_attention_kernel import TOLERANCE, scene_of
from tests.custom_ops.attention_reference import reference_attention
from tests.custom_ops.int8_pages import to_cache
from tests.custom_ops.kernel_calls import INT8

FLOAT16 = np.dtype(np.float16)
BLOCK_SIZE, KV_HEADS, HEAD_DIM = 128, 8, 128
NEAR = 3
"""Blocks between 2**32 elements and the far block; and so where 32 bits would lead to, at the front."""
FILES = ("keys", "values")


def make_far_caches(folder, dtype):
    """Two caches, and a block in each that begins behind 2**32 elements, `NEAR` blocks further."""
    width = HEAD_DIM + 4 if dtype == INT8 else HEAD_DIM
    far = -(-(2**32) // (BLOCK_SIZE * KV_HEADS * width)) + NEAR
    shape = (far + 2, BLOCK_SIZE, KV_HEADS, width)
    keys, values = (np.memmap(folder / name, dtype, "w+", shape=shape) for name in FILES)
    return keys, values, far


@pytest.fixture
def far_caches(tmp_path):
    yield partial(make_far_caches, tmp_path)
    for name in FILES:
        (tmp_path / name).unlink()  # pytest keeps folders


@pytest.mark.parametrize(
    ("cache_dtype", "group", "chip"),
    [(FLOAT16, 1, (4, 2, VECTOR_VARIANT)), (FLOAT16, 4, (4, 2, CUBE_VARIANT)), (INT8, 1, (4, 2, VECTOR_VARIANT))],
)
def test_attention_reads_far_pages(emulated, far_caches, cache_dtype, group, chip):
    scene = scene_of(
        [BLOCK_SIZE + 40], group=group, kv_heads=KV_HEADS, head_dim=HEAD_DIM, block_size=BLOCK_SIZE,
        cache_dtype=cache_dtype,
    )  # fmt: skip
    expected = reference_attention(scene)
    keys, values, far = far_caches(cache_dtype)
    for entry, block in enumerate((far, far - NEAR)):
        from_block = scene.block_table[0, entry]
        keys[block], values[block] = scene.key_cache[from_block], scene.value_cache[from_block]
        scene.block_table[0, entry] = block
    scene.key_cache, scene.value_cache = keys, values
    with emulated.chip(*chip):
        output = emulated.paged_attention(*scene.inputs())
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCE["float16"] * np.abs(expected).max())


@pytest.mark.parametrize("cache_dtype", [FLOAT16, INT8], ids=str)
def test_tokens_are_stored_in_far_slots(emulated, far_caches, cache_dtype):
    keys, values, far = far_caches(cache_dtype)
    key, value = np.random.default_rng(0).normal(size=(2, 2, KV_HEADS, HEAD_DIM)).astype(np.float16)
    slots = np.array([far * BLOCK_SIZE + 5, (far - NEAR) * BLOCK_SIZE + 127], np.int32)
    with emulated.chip(4, 2):
        emulated.reshape_and_cache(key, value, keys, values, slots)
    for tokens, cache in ((key, keys), (value, values)):
        for token, slot in zip(tokens, slots, strict=True):
            block, position = divmod(slot, BLOCK_SIZE)
            expected = np.zeros((1, BLOCK_SIZE, KV_HEADS, HEAD_DIM), np.float16)
            expected[0, position] = token
            np.testing.assert_array_equal(cache[block], to_cache(expected, cache_dtype)[0])
        assert not cache[:8].any()


@pytest.mark.parametrize("cache_dtype", [FLOAT16, INT8], ids=str)
def test_far_blocks_are_copied_read_and_written(emulated, far_caches, cache_dtype):
    keys, values, far = far_caches(cache_dtype)
    rng = np.random.default_rng(1)
    pages = rng.integers(-100, 100, (1, 2, 2, *keys.shape[1:])).astype(cache_dtype)
    with emulated.chip(4, 2):
        layer, done = np.array(0, np.int64), np.empty(1, np.int32)
        emulated.call("WriteBlocks", keys, values, pages, np.array([far, far - NEAR], np.int32), layer, done)
        emulated.copy_blocks(keys, values, np.array([[far, far + 1]], np.int32))
        read = np.empty((2, 3, *keys.shape[1:]), cache_dtype)
        emulated.call("ReadBlocks", keys, values, np.array([far + 1, far - NEAR, NEAR], np.int32), read)
    for cache, written in ((keys, pages[0, 0]), (values, pages[0, 1])):
        np.testing.assert_array_equal(cache[far], written[0])
        np.testing.assert_array_equal(cache[far - NEAR], written[1])
        assert not cache[:8].any()
    np.testing.assert_array_equal(read[:, :2], pages[0])
    assert not read[:, 2].any()
