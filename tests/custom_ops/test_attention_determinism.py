"""A token's result is bitwise the same whatever stands around it."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.custom_ops.build import cpu_library
from tests.custom_ops.attention_reference import Scene, make_scene
from tests.custom_ops.kernel_calls import FLOAT_DTYPES, assert_same_bits

GROUPS = [(2, 2), (4, 2), (6, 2), (8, 2), (9, 3), (16, 2)]


@pytest.fixture
def set_threads():
    """Set how many threads the operators use; afterwards as before."""
    library = ctypes.CDLL(str(cpu_library()))
    before = library.PagedOpsNumThreads()
    yield library.PagedOpsSetNumThreads
    library.PagedOpsSetNumThreads(before)


def only(scene: Scene, tokens) -> Scene:
    return replace(scene, query=scene.query[tokens], rows=scene.rows[tokens], context_lens=scene.context_lens[tokens])


@pytest.mark.parametrize("cache_dtype", FLOAT_DTYPES, ids=str)
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


def test_chunk_size_does_not_matter(kernels):
    scene = make_scene(np.random.default_rng(1), contexts=[300], new_tokens=[300], heads=6, head_dim=64)
    whole = kernels.paged_attention(*scene.inputs())
    for chunk in (1, 7, 64, 299):
        parts = [
            kernels.paged_attention(*only(scene, np.arange(start, min(start + chunk, 300))).inputs())
            for start in range(0, 300, chunk)
        ]
        assert_same_bits(np.concatenate(parts), whole, f"chunks of {chunk}")


@pytest.mark.parametrize("contexts", [[3000], [2000, 1, 600, 17], [300] * 9])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (8, 8)])
def test_threads_do_not_matter(kernels, set_threads, contexts, heads, kv_heads):
    """One thread never splits a row over threads, more do: the sums are the same."""
    scene = make_scene(np.random.default_rng(2), contexts, heads=heads, kv_heads=kv_heads, head_dim=64)
    outputs = []
    for threads in (1, 2, 3, 8):
        set_threads(threads)
        outputs.append(kernels.paged_attention(*scene.inputs()))
    for output in outputs[1:]:
        assert_same_bits(output, outputs[0])


def test_neighbours_do_not_matter(kernels):
    scene = make_scene(
        np.random.default_rng(3), contexts=[1500, 4, 257, 90, 800], new_tokens=[1, 4, 30, 1, 1], head_dim=64
    )
    together = kernels.paged_attention(*scene.inputs())
    for row in range(5):
        tokens = np.flatnonzero(scene.rows == row)
        assert_same_bits(kernels.paged_attention(*only(scene, tokens).inputs()), together[tokens])


@pytest.mark.parametrize("block_size", [16, 32, 80, 256])
def test_placement_and_block_size_do_not_matter(kernels, block_size):
    rng = np.random.default_rng(4)
    contexts = [700, 33]
    scattered = make_scene(rng, contexts, head_dim=64, block_size=16)
    block_counts = [-(-context // block_size) for context in contexts]
    shape = (sum(block_counts), block_size, *scattered.key_cache.shape[2:])
    moved = replace(
        scattered,
        key_cache=np.full(shape, np.nan, np.float32),
        value_cache=np.full(shape, np.nan, np.float32),
        block_table=np.zeros((2, max(block_counts)), np.int32),
    )
    ids = iter(rng.permutation(sum(block_counts)))
    for row, context in enumerate(contexts):
        for position in range(context):
            if position % block_size == 0:
                moved.block_table[row, position // block_size] = next(ids)
            source = scattered.block_table[row, position // 16], position % 16
            target = moved.block_table[row, position // block_size], position % block_size
            moved.key_cache[target] = scattered.key_cache[source]
            moved.value_cache[target] = scattered.value_cache[source]
    assert_same_bits(kernels.paged_attention(*moved.inputs()), kernels.paged_attention(*scattered.inputs()))
