"""reshape_and_cache and copy_blocks against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_ops.int8_pages import pack, quantize, unpack
from tests.custom_ops.kernel_calls import BFLOAT16, CACHE_DTYPES, FLOAT_DTYPES, assert_same_bits

NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM = 5, 16, 3, 10


def empty_caches(dtype=np.float32, fill=np.nan):
    return np.full((2, NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM), fill, dtype)


def tokens(count, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(2, count, KV_HEADS, HEAD_DIM)).astype(dtype)


@pytest.mark.parametrize("token_dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("cache_dtype", FLOAT_DTYPES, ids=str)
def test_tokens_land_in_their_slots_and_nowhere_else(kernels, token_dtype, cache_dtype):
    slots = np.array([0, 79, 17, -1, 31, 32], np.int32)
    key, value = tokens(len(slots), token_dtype)
    caches = empty_caches(cache_dtype, fill=7)
    expected = caches.copy().reshape(2, NUM_BLOCKS * BLOCK_SIZE, KV_HEADS, HEAD_DIM)
    stored = slots >= 0
    expected[0, slots[stored]] = key[stored].astype(cache_dtype)
    expected[1, slots[stored]] = value[stored].astype(cache_dtype)
    kernels.reshape_and_cache(key, value, caches[0], caches[1], slots)
    assert_same_bits(caches, expected.reshape(caches.shape))


def test_slot_minus_one_never_wraps_to_the_last_slot(kernels):
    key, value = tokens(3)
    caches = empty_caches(fill=7)
    kernels.reshape_and_cache(key, value, caches[0], caches[1], np.full(3, -1, np.int32))
    assert np.all(caches == 7)


def test_of_two_tokens_with_one_slot_the_later_wins_also_with_threads(kernels):
    count = 6000  # enough bytes for the second thread
    key, value = tokens(count)
    caches = empty_caches()
    kernels.reshape_and_cache(key, value, caches[0], caches[1], np.full(count, 40, np.int32))
    np.testing.assert_array_equal(caches[:, 2, 8], [key[-1], value[-1]])
    assert np.isnan(caches).sum() == caches.size - 2 * KV_HEADS * HEAD_DIM


def convert(kernels, numbers, dtype):
    """Send numbers through a cache of type `dtype`, padded to whole slots."""
    padded = np.zeros(-(-len(numbers) // 62) * 62, numbers.dtype)
    padded[: len(numbers)] = numbers
    key = padded.reshape(-1, 1, 62)
    num_blocks = -(-len(key) // BLOCK_SIZE)
    caches = np.zeros((2, num_blocks, BLOCK_SIZE, 1, 62), dtype)
    kernels.reshape_and_cache(key, key, caches[0], caches[1], np.arange(len(key), dtype=np.int32))
    return caches[0].reshape(-1)[: len(numbers)]


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_every_16_bit_number_widens_exactly(kernels, dtype):
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype)
    np.testing.assert_array_equal(convert(kernels, numbers, np.float32), numbers.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_float32_narrows_to_nearest_ties_to_even(kernels, dtype):
    """All 16-bit numbers, the ties between them, their neighbours, and random bits; NaN stays NaN."""
    exact = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    half_unit = np.float32(1) + np.float32(2.0**-11 if dtype == np.float16 else 2.0**-8)
    ties = exact * half_unit
    random = np.random.default_rng(0).integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    special = np.array([np.inf, -np.inf, np.nan], np.float32)
    numbers = np.concatenate([exact, ties, np.nextafter(ties, np.float32(np.inf)), random, special])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = numbers.astype(dtype)
    actual = convert(kernels, numbers, dtype)
    is_nan = np.isnan(numbers)
    assert np.all(np.isnan(actual[is_nan]))
    assert_same_bits(actual[~is_nan], expected[~is_nan])


def stored_as_int8(kernels, vectors, slots, kv_heads, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE):
    """Store [T, K, D]; returns all values and scales of the cache, which were 7 and 7.5 where nothing was stored."""
    shape = num_blocks, block_size, kv_heads
    empty = pack(np.full((*shape, vectors.shape[-1]), 7, np.int8), np.full(shape, 7.5, np.float32))
    caches = np.stack([empty, empty])
    kernels.reshape_and_cache(vectors, vectors, caches[0], caches[1], slots)
    np.testing.assert_array_equal(caches[0], caches[1])
    return unpack(caches[0])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_int8_is_quantized_head_by_head(kernels, data):
    """To the last bit, whatever the width, the type, the size of the numbers, and where they go."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kv_heads, head_dim = data.draw(st.integers(1, 4)), 2 * data.draw(st.integers(1, 70))
    num_blocks, block_size = data.draw(st.integers(1, 3)), 16 * data.draw(st.integers(1, 3))
    dtype = data.draw(st.sampled_from(FLOAT_DTYPES))
    count = data.draw(st.integers(1, 40))
    slots = rng.permutation(num_blocks * block_size)[:count].astype(np.int32)
    slots[rng.random(len(slots)) < 0.2] = -1
    amplitudes = 10.0 ** rng.uniform(-3, 3, (len(slots), kv_heads, 1))
    vectors = (rng.normal(size=(len(slots), kv_heads, head_dim)) * amplitudes).astype(dtype)
    values, scales = stored_as_int8(kernels, vectors, slots, kv_heads, num_blocks, block_size)
    expected_values, expected_scales = np.full_like(values, 7), np.full_like(scales, 7.5)
    places = np.unravel_index(slots[slots >= 0], (num_blocks, block_size))
    expected_values[places], expected_scales[places] = quantize(vectors[slots >= 0])
    np.testing.assert_array_equal(values, expected_values)
    assert_same_bits(scales, expected_scales)


def test_int8_rounds_ties_to_even(kernels):
    """With a scale of exactly 1: all halves from -126.5 to 126.5, and their neighbours."""
    ties = np.arange(-126.5, 127, dtype=np.float32)
    numbers = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    vectors = np.pad(numbers.reshape(-1, 1, 6), ((0, 0), (0, 0), (0, 2)), constant_values=-127)
    values, scales = stored_as_int8(kernels, vectors, np.arange(len(vectors), dtype=np.int32), 1, num_blocks=8)
    assert np.all(scales.reshape(-1)[: len(vectors)] == 1)
    np.testing.assert_array_equal(values.reshape(-1, 8)[: len(vectors)], np.rint(vectors[:, 0]))


TINIEST = float(np.finfo(np.float32).smallest_subnormal)


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        ([0, -0.0], 0),
        ([TINIEST, -100 * TINIEST], 0),
        ([1.4e-36, 0], 0),
        ([1.6e-36, 0], np.float32(1.6e-36) / np.float32(127)),
        ([3.4e38, -1e38], np.float32(3.4e38) / np.float32(127)),
        ([np.nan, 1], np.nan),
        ([1, -np.inf], np.nan),
        ([np.inf, np.nan], np.nan),
    ],
)
@pytest.mark.parametrize("at", [0, 30])
def test_int8_scale_of_exceptional_numbers(kernels, numbers, scale, at):
    """What cannot be scaled is 0; what is not finite is not hidden, and does not touch the head beside it."""
    vectors = np.zeros((1, 2, 38), np.float32)
    vectors[0, 0, at : at + 2], vectors[0, 1] = numbers, 127
    values, scales = stored_as_int8(kernels, vectors, np.array([20], np.int32), 2)
    assert_same_bits(np.isnan(scales[1, 4]), np.array([np.isnan(scale), False]))
    if not np.isnan(scale):
        assert scales[1, 4, 0] == np.float32(scale)
    assert np.all(values[1, 4, 0] == 0) == (scale == 0 or np.isnan(scale))
    assert scales[1, 4, 1] == 1
    assert np.all(values[1, 4, 1] == 127)


def test_of_two_tokens_with_one_slot_the_later_wins_in_int8(kernels):
    count = 6000
    key, value = tokens(count)
    caches = np.full((2, NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM + 4), -1, np.int8)
    kernels.reshape_and_cache(key, value, caches[0], caches[1], np.full(count, 40, np.int32))
    for cache, last in zip(caches, (key[-1], value[-1]), strict=True):
        values, scales = unpack(cache)
        expected = quantize(last)
        np.testing.assert_array_equal(values[2, 8], expected[0])
        np.testing.assert_array_equal(scales[2, 8], expected[1])
        assert np.isnan(scales).sum() == scales.size - KV_HEADS


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
def test_copy_blocks_in_order(kernels, dtype):
    """A chain: block 1 goes to 2 only after 2 went to 4; -1, -1 and a block onto itself do nothing."""
    caches = np.arange(empty_caches().size).reshape(empty_caches().shape).astype(dtype)
    expected = caches.copy()
    expected[:, 4], expected[:, 2] = caches[:, 2], caches[:, 1]
    kernels.copy_blocks(caches[0], caches[1], np.array([[2, 4], [-1, -1], [1, 2], [3, 3]], np.int32))
    assert_same_bits(caches, expected)


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(*[st.integers(0, NUM_BLOCKS - 1)] * 2), min_size=1, max_size=12))
def test_copy_blocks_any_pairs(kernels, pairs):
    caches = np.random.default_rng(0).normal(size=empty_caches().shape).astype(np.float32)
    expected = caches.copy()
    for source, destination in pairs:
        expected[:, destination] = expected[:, source]
    kernels.copy_blocks(caches[0], caches[1], np.array(pairs, np.int32))
    np.testing.assert_array_equal(caches, expected)


@pytest.mark.parametrize("shape", [(8, 256, 8, 64), (5, 8, 64, 8, 64)], ids=["one layer", "five layers"])
def test_copy_blocks_large_enough_for_threads(kernels, shape):
    caches = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected = caches.copy()
    expected[..., 7, :, :, :], expected[..., 6, :, :, :] = caches[..., 0, :, :, :], caches[..., 0, :, :, :]
    kernels.copy_blocks(caches[0], caches[1], np.array([[0, 7], [7, 6]], np.int32))
    np.testing.assert_array_equal(caches, expected)
