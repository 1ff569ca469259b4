"""A token's result is bitwise the same whatever stands around it."""

from dataclasses import replace

import numpy as np
import pytest

from tests.custom_ops.attention_reference import Scene, make_scene
from tests.custom_ops.int8_pages import pack, unpack
from tests.custom_ops.kernel_calls import CACHE_DTYPES, INT8, assert_same_bits

GROUPS = [(2, 2), (4, 2), (6, 2), (8, 2), (9, 3), (16, 2)]


def only(scene: Scene, tokens) -> Scene:
    return replace(scene, query=scene.query[tokens], rows=scene.rows[tokens], context_lens=scene.context_lens[tokens])


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
def test_decode_and_prefill_chunk_agree(kernels, heads, kv_heads, cache_dtype):
    """Every token of two chunks, alone as a decode step; contexts cross blocks and partitions."""
    scene = make_scene(
        np.random.default_rng(0),
        contexts=[530, 40],
        new_tokens=[45, 40],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=80,
        cache_dtype=cache_dtype,
    )
    together = kernels.paged_attention(*scene.inputs())
    for token in range(len(scene.rows)):
        alone = kernels.paged_attention(*only(scene, [token]).inputs())
        assert_same_bits(alone[0], together[token], f"token {token}")


@pytest.mark.parametrize("cache_dtype", [np.float32, INT8], ids=["float32", "int8"])
def test_chunk_size_does_not_matter(kernels, cache_dtype):
    scene = make_scene(
        np.random.default_rng(1), contexts=[300], new_tokens=[300], heads=6, head_dim=64, cache_dtype=cache_dtype
    )
    whole = kernels.paged_attention(*scene.inputs())
    for chunk in (1, 7, 64, 299):
        parts = [
            kernels.paged_attention(*only(scene, np.arange(start, min(start + chunk, 300))).inputs())
            for start in range(0, 300, chunk)
        ]
        assert_same_bits(np.concatenate(parts), whole, f"chunks of {chunk}")


@pytest.mark.parametrize("contexts", [[3000], [2000, 1, 600, 17], [300] * 9])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (8, 8)])
@pytest.mark.parametrize("cache_dtype", [np.float32, INT8], ids=["float32", "int8"])
def test_threads_do_not_matter(kernels, set_threads, contexts, heads, kv_heads, cache_dtype):
    """One thread never splits a row over threads, more do: the sums are the same."""
    scene = make_scene(
        np.random.default_rng(2), contexts, heads=heads, kv_heads=kv_heads, head_dim=256, cache_dtype=cache_dtype
    )
    outputs = []
    for threads in (1, 2, 3, 8):
        set_threads(threads)
        outputs.append(kernels.paged_attention(*scene.inputs()))
    for output in outputs[1:]:
        assert_same_bits(output, outputs[0])


@pytest.mark.parametrize("cache_dtype", [np.float32, INT8], ids=["float32", "int8"])
def test_neighbours_do_not_matter(kernels, cache_dtype):
    scene = make_scene(
        np.random.default_rng(3),
        contexts=[1500, 4, 257, 90, 800],
        new_tokens=[1, 4, 30, 1, 1],
        head_dim=64,
        cache_dtype=cache_dtype,
    )
    together = kernels.paged_attention(*scene.inputs())
    for row in range(5):
        tokens = np.flatnonzero(scene.rows == row)
        assert_same_bits(kernels.paged_attention(*only(scene, tokens).inputs()), together[tokens])


def moved_to(scene: Scene, block_size, rng) -> Scene:
    """The same rows in blocks of another size, elsewhere; of int8, scales move with their values."""
    block_counts = [-(-int(context) // block_size) for context in scene.context_lens]
    ids = iter(rng.permutation(sum(block_counts)))
    block_table = np.zeros((len(block_counts), max(block_counts)), np.int32)
    places = []
    for row, context in enumerate(scene.context_lens):
        for position in range(context):
            if position % block_size == 0:
                block_table[row, position // block_size] = next(ids)
            source = scene.block_table[row, position // 16], position % 16
            places.append((source, (block_table[row, position // block_size], position % block_size)))
    sources, targets = (tuple(map(list, zip(*side, strict=True))) for side in zip(*places, strict=True))

    def moved(array):
        target = np.full((sum(block_counts), block_size, *array.shape[2:]), -1, array.dtype)
        target[targets] = array[sources]
        return target

    caches = {}
    for name in ("key_cache", "value_cache"):
        cache = getattr(scene, name)
        caches[name] = pack(*map(moved, unpack(cache))) if cache.dtype == INT8 else moved(cache)
    return replace(scene, block_table=block_table, **caches)


@pytest.mark.parametrize("cache_dtype", [np.float32, INT8], ids=["float32", "int8"])
@pytest.mark.parametrize("block_size", [16, 32, 80, 256])
def test_placement_and_block_size_do_not_matter(kernels, block_size, cache_dtype):
    rng = np.random.default_rng(4)
    scattered = make_scene(rng, contexts=[700, 33], head_dim=64, block_size=16, cache_dtype=cache_dtype)
    moved = moved_to(scattered, block_size, rng)
    assert_same_bits(kernels.paged_attention(*moved.inputs()), kernels.paged_attention(*scattered.inputs()))
