"""The Ascend C kernels that move keys and values in and out of the pages, on the emulated chip, against NumPy.

Caches start as NaN, each with bits of its own, and are compared whole and bit by bit: what nothing names stays.
"""

import numpy as np
import pytest

from tests.custom_ops.int8_pages import pack, quantize, unpack
from tests.custom_ops.kernel_calls import BFLOAT16, INT8, OpRefusedError, assert_same_bits

FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
CACHE_DTYPES = (FLOAT16, BFLOAT16)
PAGE_DTYPES = (*CACHE_DTYPES, INT8)
QUIET_NAN = {FLOAT16: 0x7E00, BFLOAT16: 0x7FC0}
UNTOUCHED = -123
DONE_BYTES = 4


def nan_caches(dtype, num_blocks, block_size, kv_heads, head_dim):
    """A key and a value cache of NaN whose low bits count."""
    shape = (2, num_blocks, block_size, kv_heads, head_dim)
    counts = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape) % 32
    return (counts + QUIET_NAN[dtype]).astype(np.uint16).view(dtype)


def filled_caches(dtype, num_blocks, block_size, kv_heads, head_dim, seed=0):
    """Any bits at all, NaN among them: blocks are moved, not understood. Of int8, head_dim + 4 elements a head."""
    shape = (2, num_blocks, block_size, kv_heads, head_dim + (4 if dtype == INT8 else 0))
    bits = f"u{dtype.itemsize}"
    return np.random.default_rng(seed).integers(0, 2 ** (8 * dtype.itemsize), shape, dtype=bits).view(dtype)


def random_slots(rng, count, num_slots, skipped=0.2):
    slots = rng.permutation(num_slots)[:count].astype(np.int32)
    slots[rng.random(count) < skipped] = -1
    return slots


def tokens_for(rng, slots, kv_heads, head_dim, dtype):
    """Keys and values; those that are not stored are NaN."""
    tokens = rng.normal(size=(2, len(slots), kv_heads, head_dim)).astype(dtype)
    tokens[:, slots < 0] = np.nan
    return tokens


def check_reshape(emulated, tokens, caches, slots):
    expected = caches.copy().reshape(2, -1, *caches.shape[3:])
    stored = slots >= 0
    expected[:, slots[stored]] = tokens[:, stored].astype(np.float32).astype(caches.dtype)
    done = np.full(1, UNTOUCHED, np.int32)
    emulated.call("ReshapeAndCache", tokens[0], tokens[1], caches[0], caches[1], slots, done)
    assert_same_bits(caches, expected.reshape(caches.shape))
    assert done[0] == 0


@pytest.mark.parametrize("token_dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(1, 64), (2, 80), (8, 128)])
@pytest.mark.parametrize(("count", "cores"), [(1, 40), (2, 1), (7, 3), (33, 40), (64, 1), (64, 39)])
def test_tokens_land_in_their_slots_and_nowhere_else(
    emulated, token_dtype, cache_dtype, kv_heads, head_dim, count, cores
):
    rng = np.random.default_rng(count)
    caches = nan_caches(cache_dtype, 6, 16, kv_heads, head_dim)
    slots = random_slots(rng, count, 6 * 16)
    with emulated.chip(cores, 0):
        check_reshape(emulated, tokens_for(rng, slots, kv_heads, head_dim, token_dtype), caches, slots)


@pytest.mark.parametrize("token_dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(128, 128), (127, 80)])
def test_a_token_larger_than_a_buffer_is_stored_in_parts(emulated, token_dtype, cache_dtype, kv_heads, head_dim):
    rng = np.random.default_rng(1)
    caches = nan_caches(cache_dtype, 2, 16, kv_heads, head_dim)
    slots = np.array([31, -1, 0, 17], np.int32)
    with emulated.chip(3, 0):
        check_reshape(emulated, tokens_for(rng, slots, kv_heads, head_dim, token_dtype), caches, slots)


@pytest.mark.parametrize("cores", [1, 40])
def test_more_tokens_than_fit_a_window_of_slots(emulated, cores):
    rng = np.random.default_rng(2)
    caches = nan_caches(FLOAT16, 160, 16, 1, 16)
    slots = random_slots(rng, 2500, 160 * 16)
    with emulated.chip(cores, 0):
        check_reshape(emulated, tokens_for(rng, slots, 1, 16, BFLOAT16), caches, slots)


def test_no_token_stored_leaves_the_caches_alone(emulated):
    slots = np.full(40, -1, np.int32)
    check_reshape(emulated, np.full((2, 40, 2, 64), np.nan, FLOAT16), nan_caches(FLOAT16, 2, 16, 2, 64), slots)


@pytest.mark.parametrize("dtype", CACHE_DTYPES, ids=str)
def test_float32_narrows_to_nearest_ties_to_even(emulated, dtype):
    """Every finite number of the cache's type, the ties above them, and their neighbours."""
    exact = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    largest = np.float32(2) ** (15 if dtype == FLOAT16 else 127)
    exact = exact[np.abs(exact) < largest]
    ties = exact * (np.float32(1) + np.float32(2.0**-11 if dtype == FLOAT16 else 2.0**-8))
    numbers = np.concatenate([exact, ties, np.nextafter(ties, np.float32(np.inf))])
    numbers = np.resize(numbers, -(-len(numbers) // 1024) * 1024).reshape(-1, 1, 1024)
    slots = np.arange(len(numbers), dtype=np.int32)
    caches = nan_caches(dtype, -(-len(numbers) // 16), 16, 1, 1024)
    check_reshape(emulated, np.stack([numbers, -numbers]), caches, slots)


def test_keys_and_values_spread_over_all_cores(emulated):
    """Eight tokens are sixteen rows: sixteen cores store one each."""
    rng = np.random.default_rng(3)
    slots = random_slots(rng, 8, 32, skipped=0)
    check_reshape(emulated, tokens_for(rng, slots, 8, 128, FLOAT16), nan_caches(FLOAT16, 2, 16, 8, 128), slots)
    report = emulated.report()
    assert report["slowest_vector_core"]["mte3_bytes"] <= 8 * 128 * 2 + DONE_BYTES
    assert report["total"]["mte3_bytes"] == 16 * 8 * 128 * 2 + DONE_BYTES


def check_quantized(emulated, tokens, num_blocks, block_size, slots):
    """Values and scales to the last bit; what was not stored keeps 7 and 7.5."""
    kv_heads, head_dim = tokens.shape[2:]
    shape = num_blocks, block_size, kv_heads
    empty = pack(np.full((*shape, head_dim), 7, np.int8), np.full(shape, 7.5, np.float32))
    caches, done = np.stack([empty, empty]), np.full(1, UNTOUCHED, np.int32)
    emulated.call("ReshapeAndCache", tokens[0], tokens[1], caches[0], caches[1], slots, done)
    assert done[0] == 0
    places = np.unravel_index(slots[slots >= 0], shape[:2])
    for cache, heads in zip(caches, tokens, strict=True):
        values, scales = unpack(empty)
        values, scales = values.copy(), scales.copy()
        values[places], scales[places] = quantize(heads[slots >= 0])
        assert_same_bits(unpack(cache)[0], values)
        assert_same_bits(unpack(cache)[1], scales)


@pytest.mark.parametrize("token_dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(1, 64), (3, 64), (2, 96), (8, 128), (9, 32), (33, 128), (127, 96)])
@pytest.mark.parametrize(("count", "cores"), [(1, 40), (7, 3), (33, 40), (64, 1)])
def test_int8_is_quantized_head_by_head(emulated, token_dtype, kv_heads, head_dim, count, cores):
    """Tokens that share a load, and some that are stored in parts."""
    rng = np.random.default_rng(count)
    slots = random_slots(rng, count, 3 * 32)
    tokens = tokens_for(rng, slots, kv_heads, head_dim, FLOAT32) * 10.0 ** rng.uniform(-3, 3, (kv_heads, 1))
    with emulated.chip(cores, 0):
        check_quantized(emulated, tokens.astype(token_dtype), 3, 32, slots)


@pytest.mark.parametrize("cores", [1, 40])
def test_more_tokens_of_int8_than_fit_a_window_of_slots(emulated, cores):
    rng = np.random.default_rng(2)
    slots = random_slots(rng, 2500, 160 * 16)
    with emulated.chip(cores, 0):
        check_quantized(emulated, tokens_for(rng, slots, 1, 32, BFLOAT16), 160, 16, slots)


def test_int8_rounds_ties_to_even(emulated):
    """With a scale of exactly 1: all halves, and their neighbours, which rounding twice would take for halves."""
    ties = np.arange(-126.5, 127, dtype=np.float32)
    numbers = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    tokens = np.full((2, 30, 1, 32), 127, np.float32)
    tokens[:, :, 0, :26] = np.resize(numbers, (30, 26))
    check_quantized(emulated, tokens, 2, 16, np.arange(30, dtype=np.int32))


@pytest.mark.parametrize("head_dim", [32, 128])
def test_int8_scales_of_exceptional_numbers(emulated, head_dim):
    """Of zeros and of what is too small to be scaled 0, of infinity and NaN NaN; the head beside is untouched."""
    tokens = np.full((2, 6, 2, head_dim), 127, np.float32)
    tokens[:, :, 0] = np.array([0, -0.0, 1e-40, 1.4e-36, 1.6e-36, 3.4e38], np.float32)[:, None]
    check_quantized(emulated, tokens, 2, 16, np.arange(6, dtype=np.int32))
    tokens[:, :, 0] = 1
    tokens[:, :, 0, [3, head_dim - 1]] = [[np.nan, 1], [1, np.nan], [np.inf, 1], [1, -np.inf], [np.inf, np.nan], [2, 3]]
    caches = np.zeros((2, 2, 16, 2, head_dim + 4), np.int8)
    emulated.call("ReshapeAndCache", *tokens, *caches, np.arange(6, dtype=np.int32), np.empty(1, np.int32))
    for cache in caches:
        values, scales = unpack(cache)
        np.testing.assert_array_equal(np.isnan(scales[0, :6]), [[True, False]] * 5 + [[False, False]])
        assert np.all(scales[0, :6, 1] == 1)
        assert np.all(values[0, :6, 1] == 127)


@pytest.mark.parametrize("head_dim", [16, 48, 160])
def test_heads_of_int8_that_the_kernel_cannot_do_are_refused(emulated, head_dim):
    message = (
        f"reshape_and_cache: head_dim {head_dim} is not supported for int8: it must be a multiple of 32, at most 128"
    )
    with pytest.raises(OpRefusedError, match=message):
        check_quantized(emulated, np.zeros((2, 1, 1, head_dim), FLOAT16), 2, 16, np.zeros(1, np.int32))


def check_copy(emulated, caches, pairs):
    expected = caches.copy()
    for source, destination in pairs:
        if source >= 0:
            expected[:, destination] = expected[:, source]
    done = np.full(1, UNTOUCHED, np.int32)
    emulated.call("CopyBlocks", caches[0], caches[1], np.array(pairs, np.int32), done)
    assert_same_bits(caches, expected)
    assert done[0] == 0


CHAINS = {
    "chain": [(0, 1), (1, 2), (2, 3)],
    "chain of one block": [(0, 1), (1, 0), (0, 2)],
    "compaction": [(5, 0), (6, 1), (7, 5), (1, 6)],
    "same destination": [(0, 3), (1, 3), (3, 4)],
    "same source": [(0, 1), (0, 2), (0, 3)],
    "source overwritten after its copy": [(0, 1), (2, 0), (3, 2)],
    "nothing between": [(0, 1), (-1, -1), (4, 4), (1, 2)],
}


@pytest.mark.parametrize("pairs", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("dtype", PAGE_DTYPES, ids=str)
@pytest.mark.parametrize("cores", [1, 7, 40])
@pytest.mark.parametrize(("block_size", "kv_heads", "head_dim"), [(16, 1, 16), (16, 2, 80), (128, 3, 64)])
def test_blocks_are_copied_in_order(emulated, pairs, dtype, cores, block_size, kv_heads, head_dim):
    with emulated.chip(cores, 0):
        check_copy(emulated, filled_caches(dtype, 8, block_size, kv_heads, head_dim), pairs)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("num_blocks", [4, 60])
def test_any_pairs_are_copied_in_order(emulated, seed, num_blocks):
    """Few blocks collide at once; many let more pairs be under way than the kernel keeps in mind."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, num_blocks, (50, 2))
    pairs[rng.random(50) < 0.1] = -1
    with emulated.chip(int(rng.integers(1, 41)), 0):
        check_copy(emulated, filled_caches(FLOAT16, num_blocks, 16, 1, 32), pairs)


def test_more_pairs_than_fit_a_window_of_indices(emulated):
    rng = np.random.default_rng(4)
    with emulated.chip(2, 0):
        check_copy(emulated, filled_caches(FLOAT16, 50, 16, 1, 16), rng.integers(0, 50, (1200, 2)))


def test_pieces_larger_than_a_buffer_of_a_large_block(emulated):
    """A block of 1 MiB on one core, which moves 32 KiB at a time."""
    with emulated.chip(1, 0):
        check_copy(emulated, filled_caches(FLOAT16, 4, 64, 64, 128), [(0, 2), (2, 3)])


def test_a_copy_loads_and_stores_each_byte_once(emulated):
    caches = filled_caches(FLOAT16, 8, 128, 2, 64)
    pairs = [(0, 1), (2, 3), (1, 4)]
    check_copy(emulated, caches, pairs)
    report, moved = emulated.report()["total"], 2 * 3 * caches[0, 0].nbytes
    assert report["mte3_bytes"] == moved + DONE_BYTES
    assert moved < report["mte2_bytes"] <= moved + 40 * 6 * 4  # every core reads all six indices


def read_blocks(emulated, caches, ids):
    pages = np.full((2, len(ids), *caches.shape[2:]), 99, caches.dtype)
    emulated.call("ReadBlocks", caches[0], caches[1], np.array(ids, np.int32), pages)
    return pages


@pytest.mark.parametrize("dtype", PAGE_DTYPES, ids=str)
@pytest.mark.parametrize("cores", [1, 7, 40])
@pytest.mark.parametrize("shape", [(16, 1, 16), (16, 2, 80), (128, 3, 64), (64, 64, 128)])
@pytest.mark.parametrize("ids", [[3], [2, 0, 3], [1, 1, 1, 0, 2]])
def test_blocks_are_read_keys_then_values(emulated, dtype, cores, shape, ids):
    caches = filled_caches(dtype, 4, *shape)
    with emulated.chip(cores, 0):
        assert_same_bits(read_blocks(emulated, caches, ids), caches[:, ids])


def write_blocks(emulated, caches, pages, ids, layer):
    done = np.full(1, UNTOUCHED, np.int32)
    emulated.call("WriteBlocks", *caches, pages, np.array(ids, np.int32), np.array(layer, np.int64), done)
    assert done[0] == 0


@pytest.mark.parametrize("dtype", PAGE_DTYPES, ids=str)
@pytest.mark.parametrize("cores", [1, 7, 40])
@pytest.mark.parametrize("shape", [(16, 1, 16), (16, 2, 80), (128, 3, 64), (64, 16, 128)])
@pytest.mark.parametrize("layer", [0, 2])
def test_what_was_read_from_a_layer_is_written_back_to_it(emulated, dtype, cores, shape, layer):
    """Into other blocks; the page in the middle is left out."""
    layers = [filled_caches(dtype, 5, *shape, seed=seed) for seed in range(3)]
    caches = filled_caches(dtype, 5, *shape, seed=9)
    expected = caches.copy()
    expected[:, [4, 0]] = layers[layer][:, [1, 3]]
    with emulated.chip(cores, 0):
        pages = np.stack([read_blocks(emulated, caches_of_layer, [1, 2, 3]) for caches_of_layer in layers])
        write_blocks(emulated, caches, pages, [4, -1, 0], layer)
    assert_same_bits(caches, expected)


def test_more_blocks_than_fit_a_window_of_indices(emulated):
    caches = filled_caches(BFLOAT16, 2200, 16, 1, 16)
    ids = np.random.default_rng(5).permutation(2200)[:2100]
    with emulated.chip(3, 0):
        pages = read_blocks(emulated, caches, ids)
        assert_same_bits(pages, caches[:, ids])
        written = nan_caches(BFLOAT16, 2200, 16, 1, 16)
        expected = written.copy()
        expected[:, ids] = pages
        write_blocks(emulated, written, pages[np.newaxis], ids, 0)
    assert_same_bits(written, expected)


@pytest.mark.parametrize("count", [1, 3, 16, 17])
def test_reading_spreads_over_the_cores(emulated, count):
    """Blocks of 64 KiB; no core loads much more than its share."""
    read_blocks(emulated, filled_caches(FLOAT16, 20, 128, 2, 128), list(range(count)))
    report = emulated.report()
    assert report["total"]["mte3_bytes"] == 2 * count * 2**16
    assert report["slowest_vector_core"]["mte3_bytes"] <= 1.3 * 2 * count * 2**16 / 40


def test_a_million_blocks(emulated, tmp_path):
    """Offsets beyond 4 GiB; sparse files, of which only the pages that are touched take memory."""
    far, shape = 999_999, (10**6, 16, 1, 144)
    keys, values = (np.memmap(tmp_path / name, FLOAT16, "w+", shape=shape) for name in ("keys", "values"))
    rng = np.random.default_rng(6)
    tokens = rng.normal(size=(2, 2, 1, 144)).astype(FLOAT16)
    slots = np.array([far * 16 + 15, 7], np.int32)
    emulated.call("ReshapeAndCache", tokens[0], tokens[1], keys, values, slots, np.empty(1, np.int32))
    for cache, token in zip((keys, values), tokens):
        assert_same_bits(cache[[far, 0], [15, 7]], token)
        assert np.count_nonzero(cache[[0, far]]) == tokens[0].size
    emulated.call("CopyBlocks", keys, values, np.array([[far, 5], [0, far - 1]], np.int32), np.empty(1, np.int32))
    pages = np.empty((2, 2, *shape[1:]), FLOAT16)
    emulated.call("ReadBlocks", keys, values, np.array([5, far - 1], np.int32), pages)
    for cache, page in zip((keys, values), pages):
        assert_same_bits(page, np.array(cache[[far, 0]]))
    write_blocks(emulated, (keys, values), pages[np.newaxis], [far - 3, far - 2], 0)
    for cache in (keys, values):
        assert_same_bits(np.array(cache[[far - 3, far - 2]]), np.array(cache[[far, 0]]))
        assert not np.any(cache[[1, far - 4]])


def test_caches_of_several_layers_are_refused(emulated):
    """As the chip's operators do, which have no such dimension."""
    caches = filled_caches(FLOAT16, 3, 16, 1, 64)[:, None]
    before = caches.copy()
    with pytest.raises(OpRefusedError, match="^copy_blocks: key_cache has a dimension of layers, this backend"):
        emulated.call("CopyBlocks", *caches, np.array([[1, 2]], np.int32), np.empty(1, np.int32))
    assert_same_bits(caches, before)
