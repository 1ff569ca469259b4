"""paged_attention with a window: the last tokens of each context, whatever stands before them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_ops.attention_reference import UNUSED_ENTRY, assert_close, make_scene, reference_attention
from tests.custom_ops.kernel_calls import CACHE_DTYPES, FLOAT_DTYPES, INT8, OpRefusedError, assert_same_bits
from tests.custom_ops.test_attention_determinism import moved_to, only

FLOAT32_AND_INT8 = pytest.mark.parametrize("cache_dtype", [np.float32, INT8], ids=["float32", "int8"])


def check(kernels, scene):
    assert_close(kernels.paged_attention(*scene.inputs()), reference_attention(scene))


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 100, 255, 256, 257, 300, 511, 700])
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
def test_windows_around_chunks_blocks_and_partitions(kernels, window, cache_dtype):
    contexts = [1, 16, 40, 255, 256, 257, 290, 513, 700, 1300]
    new_tokens = [1, 1, 40, 1, 2, 3, 100, 1, 45, 7]
    scene = make_scene(
        np.random.default_rng(window), contexts, new_tokens=new_tokens, heads=3, kv_heads=1, head_dim=16,
        block_size=48, cache_dtype=cache_dtype, window=window,
    )  # fmt: skip
    check(kernels, scene)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (9, 3), (71, 1)])
@pytest.mark.parametrize("new_tokens", [1, 5, 64, 290])
def test_groups_and_chunks(kernels, heads, kv_heads, new_tokens):
    """A chunk shorter and longer than the window: queries that share some tokens, and queries that share none."""
    scene = make_scene(
        np.random.default_rng(0), [530, 300], new_tokens=[new_tokens, 1], heads=heads, kv_heads=kv_heads, head_dim=34,
        window=50,
    )  # fmt: skip
    check(kernels, scene)


@st.composite
def windowed_scenes(draw):
    contexts = draw(st.lists(st.integers(1, 600), min_size=1, max_size=4))
    kv_heads = draw(st.integers(1, 3))
    return make_scene(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        contexts,
        new_tokens=[draw(st.integers(1, min(context, 60))) for context in contexts],
        heads=kv_heads * draw(st.integers(1, 9)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 40)),
        block_size=16 * draw(st.integers(1, 4)),
        query_dtype=draw(st.sampled_from(FLOAT_DTYPES)),
        cache_dtype=draw(st.sampled_from(CACHE_DTYPES)),
        window=draw(st.integers(1, 650)),
    )


@settings(max_examples=60, deadline=None)
@given(scene=windowed_scenes())
def test_any_scene(kernels, scene):
    check(kernels, scene)


@FLOAT32_AND_INT8
def test_a_window_that_holds_the_context_changes_no_bit(kernels, cache_dtype):
    scene = make_scene(np.random.default_rng(1), [530, 40], new_tokens=[45, 40], head_dim=80, cache_dtype=cache_dtype)
    whole = kernels.paged_attention(*scene.inputs())
    for window in (530, 531, 2**62):
        assert_same_bits(kernels.paged_attention(*replace(scene, window=window).inputs()), whole)


@FLOAT32_AND_INT8
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (9, 3)])
def test_decode_and_prefill_chunk_agree(kernels, heads, kv_heads, cache_dtype):
    """Every token of two chunks, alone as a decode step."""
    scene = make_scene(
        np.random.default_rng(2), [530, 40], new_tokens=[45, 40], heads=heads, kv_heads=kv_heads, head_dim=80,
        cache_dtype=cache_dtype, window=37,
    )  # fmt: skip
    together = kernels.paged_attention(*scene.inputs())
    for token in range(len(scene.rows)):
        assert_same_bits(kernels.paged_attention(*only(scene, [token]).inputs())[0], together[token], f"token {token}")


@FLOAT32_AND_INT8
@pytest.mark.parametrize("window", [20, 270])
def test_chunk_size_does_not_matter(kernels, cache_dtype, window):
    """In panels and out of them; chunks whose queries begin in different partitions too."""
    scene = make_scene(
        np.random.default_rng(3), [600], new_tokens=[600], heads=6, head_dim=64, cache_dtype=cache_dtype, window=window
    )
    whole = kernels.paged_attention(*scene.inputs())
    for chunk in (1, 7, 64, 599):
        parts = [
            kernels.paged_attention(*only(scene, np.arange(start, min(start + chunk, 600))).inputs())
            for start in range(0, 600, chunk)
        ]
        assert_same_bits(np.concatenate(parts), whole, f"chunks of {chunk}")


@FLOAT32_AND_INT8
@pytest.mark.parametrize("contexts", [[3000], [2000, 1, 600, 17]])
def test_threads_do_not_matter(kernels, set_threads, contexts, cache_dtype):
    """A row whose window spans partitions is split over the threads."""
    scene = make_scene(
        np.random.default_rng(4), contexts, heads=4, kv_heads=1, head_dim=256, cache_dtype=cache_dtype, window=900
    )
    outputs = []
    for threads in (1, 2, 3, 8):
        set_threads(threads)
        outputs.append(kernels.paged_attention(*scene.inputs()))
    for output in outputs[1:]:
        assert_same_bits(output, outputs[0])
    assert_close(outputs[0], reference_attention(scene))


@FLOAT32_AND_INT8
def test_neighbours_do_not_matter(kernels, cache_dtype):
    scene = make_scene(
        np.random.default_rng(5), [1500, 4, 257, 90, 800], new_tokens=[1, 4, 30, 1, 1], head_dim=64,
        cache_dtype=cache_dtype, window=300,
    )  # fmt: skip
    together = kernels.paged_attention(*scene.inputs())
    for row in range(5):
        tokens = np.flatnonzero(scene.rows == row)
        assert_same_bits(kernels.paged_attention(*only(scene, tokens).inputs()), together[tokens])


@FLOAT32_AND_INT8
@pytest.mark.parametrize("block_size", [16, 80, 256])
def test_placement_and_block_size_do_not_matter(kernels, block_size, cache_dtype):
    """Beside the whole context in its pages, also what only its window is left of."""
    rng = np.random.default_rng(6)
    scattered = make_scene(rng, [700, 33], head_dim=64, cache_dtype=cache_dtype)
    moved = moved_to(scattered, block_size, rng)
    expected = kernels.paged_attention(*replace(scattered, window=130).inputs())
    assert_same_bits(kernels.paged_attention(*replace(moved, window=130).inputs()), expected)
    moved.block_table[0, : (700 - 130) // block_size] = UNUSED_ENTRY
    assert_same_bits(kernels.paged_attention(*replace(moved, window=130).inputs()), expected)


@pytest.mark.parametrize("new_tokens", [1, 3, 40])
def test_blocks_before_the_window_are_not_looked_at(kernels, new_tokens):
    """Whatever the table says of them, for one thread or many: what is read is bounded by the window."""
    scene = make_scene(np.random.default_rng(7), [900], new_tokens=[new_tokens], head_dim=64, window=64)
    expected = kernels.paged_attention(*scene.inputs())
    first = (900 - new_tokens + 1 - 64) // 16
    assert np.all(scene.block_table[0, :first] == 0)
    for entry in (-1, UNUSED_ENTRY):
        scene.block_table[0, :first] = entry
        assert_same_bits(kernels.paged_attention(*scene.inputs()), expected)
    scene.block_table[0, first] = -1
    with pytest.raises(OpRefusedError, match=rf"token 0: block -1 at block_table\[0, {first}\] is outside"):
        kernels.paged_attention(*scene.inputs())


def test_tokens_of_a_row_in_any_order(kernels):
    """The contract does not allow it, but nothing in the result depends on it; one sees nothing at all."""
    scene = make_scene(np.random.default_rng(8), [400, 900], new_tokens=[300, 4], head_dim=16, window=33)
    order = np.random.default_rng(9).permutation(300)
    order = np.concatenate([order, [303, 300, 302, 301]])
    shuffled = only(scene, order)
    expected = kernels.paged_attention(*scene.inputs())[order]
    assert_same_bits(kernels.paged_attention(*shuffled.inputs()), expected)
    shuffled.context_lens[150] = 0
    output = kernels.paged_attention(*shuffled.inputs())
    assert np.all(output[150] == 0)
    expected[150] = 0
    assert_same_bits(output, expected)


def test_padding_gives_zeros(kernels):
    scene = make_scene(np.random.default_rng(10), [40, 50], new_tokens=[2, 1], head_dim=16, window=5)
    padded = replace(
        scene,
        query=np.insert(scene.query, [0, 2, 3], np.float32(np.nan), axis=0),
        rows=np.insert(scene.rows, [0, 2, 3], -1),
        context_lens=np.insert(scene.context_lens, [0, 2, 3], 0),
    )
    output = kernels.paged_attention(*padded.inputs())
    assert np.all(output[[0, 3, 5]] == 0)
    assert_same_bits(output[[1, 2, 4]], kernels.paged_attention(*scene.inputs()))


def test_a_window_of_one_gives_the_value_itself(kernels):
    scene = make_scene(np.random.default_rng(11), [700], heads=2, kv_heads=2, head_dim=80, window=1)
    output = kernels.paged_attention(*scene.inputs())
    np.testing.assert_array_equal(output[0], scene.value_cache[scene.block_table[0, 699 // 16], 699 % 16])
