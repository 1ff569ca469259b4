"""paged_attention against float64 NumPy: types, shapes, contexts, prefill chunks, exceptional numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_ops.attention_reference import assert_close, make_scene, reference_attention
from tests.custom_ops.int8_pages import pack, unpack
from tests.custom_ops.kernel_calls import BFLOAT16, CACHE_DTYPES, FLOAT_DTYPES, INT8


def check(kernels, scene, **tolerance):
    output = kernels.paged_attention(*scene.inputs())
    assert output.dtype == scene.query.dtype
    assert_close(output, reference_attention(scene), **tolerance)


@pytest.mark.parametrize("query_dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
def test_every_pair_of_types_and_head_dim(kernels, query_dtype, cache_dtype, head_dim):
    scene = make_scene(
        np.random.default_rng(0),
        contexts=[37, 5, 300],
        new_tokens=[1, 3, 2],
        head_dim=head_dim,
        query_dtype=query_dtype,
        cache_dtype=cache_dtype,
    )
    check(kernels, scene)


@pytest.mark.parametrize("head_dim", [2, 6, 14, 18, 30, 34, 66, 72, 98, 130, 256])
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
def test_head_dim_that_does_not_fill_the_vectors(kernels, head_dim, cache_dtype):
    scene = make_scene(
        np.random.default_rng(1), contexts=[1, 40], new_tokens=[1, 7], head_dim=head_dim, cache_dtype=cache_dtype
    )
    check(kernels, scene)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 6), (8, 1), (16, 2), (9, 3), (10, 2), (14, 2), (71, 1)])
def test_groups_of_query_heads(kernels, heads, kv_heads):
    scene = make_scene(
        np.random.default_rng(2), contexts=[33, 290], new_tokens=[1, 20], heads=heads, kv_heads=kv_heads, head_dim=16
    )
    check(kernels, scene)


@pytest.mark.parametrize("block_size", [16, 48, 128])
def test_contexts_around_blocks_and_partitions(kernels, block_size):
    contexts = [1, 15, 16, 17, block_size, block_size + 1, 255, 256, 257, 511, 512, 513, 1500]
    check(kernels, make_scene(np.random.default_rng(3), contexts, block_size=block_size, head_dim=16))


@pytest.mark.parametrize("new_tokens", [2, 16, 17, 100, 530])
def test_prefill_chunk(kernels, new_tokens):
    """Each token of the chunk sees one token more than the one before it."""
    scene = make_scene(np.random.default_rng(4), contexts=[540, 9], new_tokens=[new_tokens, 9], head_dim=16)
    check(kernels, scene)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_one_long_row_split_over_the_threads(kernels, kv_heads):
    check(kernels, make_scene(np.random.default_rng(5), contexts=[5000], heads=8, kv_heads=kv_heads, head_dim=64))


def test_row_whose_tokens_are_scattered(kernels):
    """The contract does not allow it, but nothing in the result depends on it."""
    scene = make_scene(np.random.default_rng(6), contexts=[40, 50], new_tokens=[4, 4], head_dim=16)
    order = np.array([3, 4, 0, 7, 1, 6, 2, 5])
    shuffled = replace(scene, query=scene.query[order], rows=scene.rows[order], context_lens=scene.context_lens[order])
    np.testing.assert_array_equal(
        kernels.paged_attention(*shuffled.inputs()), kernels.paged_attention(*scene.inputs())[order]
    )


def test_padding_gives_zeros_wherever_it_stands(kernels):
    scene = make_scene(np.random.default_rng(7), contexts=[20, 30], new_tokens=[2, 1], head_dim=16)
    padded = replace(
        scene,
        query=np.insert(scene.query, [0, 2, 3], np.float32(np.nan), axis=0),
        rows=np.insert(scene.rows, [0, 2, 3], -1),
        context_lens=np.insert(scene.context_lens, [0, 2, 3], 0),
    )
    output = kernels.paged_attention(*padded.inputs())
    assert np.all(output[[0, 3, 5]] == 0)
    np.testing.assert_array_equal(output[[1, 2, 4]], kernels.paged_attention(*scene.inputs()))


def test_context_zero_of_a_real_row_gives_zeros(kernels):
    scene = make_scene(np.random.default_rng(8), contexts=[20], new_tokens=[2], head_dim=16)
    scene.context_lens[0] = 0
    output = kernels.paged_attention(*scene.inputs())
    assert np.all(output[0] == 0)
    assert np.all(np.isfinite(output[1]))


def test_very_large_logits(kernels):
    """Scores of +-1e8: the softmax is nearly one-hot, and nothing overflows on the way."""
    scene = make_scene(np.random.default_rng(9), contexts=[700, 3], head_dim=64, amplitude=1e4)
    output = kernels.paged_attention(*scene.inputs())
    np.testing.assert_allclose(output, reference_attention(scene), rtol=1e-5)


def test_scores_that_overflow_downwards_weigh_nothing(kernels):
    """A whole partition of -inf scores before finite ones must not turn into NaN."""
    scene = make_scene(np.random.default_rng(10), contexts=[300], heads=2, kv_heads=1, head_dim=16)
    first_partition = scene.block_table[0, :16]
    scene.key_cache[first_partition] = -np.inf
    scene = replace(scene, query=np.abs(scene.query))
    check(kernels, scene)


def test_all_equal_scores_give_the_mean(kernels):
    scene = make_scene(np.random.default_rng(11), contexts=[531], head_dim=64)
    scene = replace(scene, query=np.zeros_like(scene.query))
    check(kernels, scene)


def test_context_of_one_gives_the_value_itself(kernels):
    scene = make_scene(np.random.default_rng(12), contexts=[1], heads=2, kv_heads=2, head_dim=80)
    output = kernels.paged_attention(*scene.inputs())
    np.testing.assert_array_equal(output[0], scene.value_cache[scene.block_table[0, 0], 0])


def test_nan_in_the_context_reaches_the_output(kernels):
    """NaN in a token that counts is not hidden."""
    scene = make_scene(np.random.default_rng(13), contexts=[20, 20], heads=2, kv_heads=2, head_dim=16)
    scene.key_cache[scene.block_table[0, 0], 3, 1] = np.nan
    output = kernels.paged_attention(*scene.inputs())
    assert np.all(np.isnan(output[0, 1]))
    assert np.all(np.isfinite(output[0, 0]))
    assert np.all(np.isfinite(output[1]))


@pytest.mark.parametrize("which", ["key_cache", "value_cache"])
def test_a_scale_of_nan_reaches_the_output(kernels, which):
    """Also where the token weighs nothing: its values, were they NaN themselves, would do the same."""
    scene = make_scene(
        np.random.default_rng(15), contexts=[600, 20], heads=2, kv_heads=2, head_dim=16, cache_dtype=INT8, amplitude=30
    )
    values, scales = unpack(getattr(scene, which))
    scales[scene.block_table[0, 0], 3, 1] = np.nan
    output = kernels.paged_attention(*replace(scene, **{which: pack(values, scales)}).inputs())
    assert np.all(np.isnan(output[0, 1]))
    assert np.all(np.isfinite(output[0, 0]))
    assert np.all(np.isfinite(output[1]))


def test_int8_numbers_count_as_they_are(kernels):
    """-128 too, which is never stored."""
    scene = make_scene(np.random.default_rng(16), contexts=[300], head_dim=64, cache_dtype=INT8)
    scene.key_cache[..., :32] = scene.value_cache[..., 32:60] = -128
    scales = np.random.default_rng(17).uniform(1e-3, 1e-2, unpack(scene.key_cache)[1].shape).astype(np.float32)
    caches = {name: pack(unpack(getattr(scene, name))[0], scales) for name in ("key_cache", "value_cache")}
    check(kernels, replace(scene, **caches))


@st.composite
def scenes(draw):
    contexts = draw(st.lists(st.integers(1, 600), min_size=1, max_size=4))
    kv_heads = draw(st.integers(1, 3))
    return make_scene(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        contexts,
        new_tokens=[draw(st.integers(1, min(context, 25))) for context in contexts],
        heads=kv_heads * draw(st.integers(1, 9)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 40)),
        block_size=16 * draw(st.integers(1, 4)),
        query_dtype=draw(st.sampled_from(FLOAT_DTYPES)),
        cache_dtype=draw(st.sampled_from(CACHE_DTYPES)),
    )


@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_any_scene(kernels, scene):
    check(kernels, scene)


def test_output_is_rounded_to_nearest(kernels):
    """With one token the float32 result is the value: what remains is the rounding to the query's type."""
    scene = make_scene(np.random.default_rng(14), contexts=[1], heads=2, kv_heads=2, head_dim=128)
    for dtype in (np.dtype(np.float16), BFLOAT16):
        output = kernels.paged_attention(*replace(scene, query=scene.query.astype(dtype)).inputs())
        expected = scene.value_cache[scene.block_table[0, 0], 0].astype(dtype)
        np.testing.assert_array_equal(output[0].view(np.uint16), expected.view(np.uint16))
