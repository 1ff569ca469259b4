"""A token's result is bitwise the same alone, in any batch, in any order, for any number of threads."""

import numpy as np
import pytest

from tests.custom_ops.kernel_calls import assert_same_bits
from tests.custom_ops.layer_reference import make_weight
from tests.custom_ops.layer_scenes import (
    ALL_FORMATS,
    EPSILON,
    FLOAT_FORMATS,
    make_feed_forward,
    make_layer_scene,
    make_norm_weight,
    make_step_scene,
    make_tokens,
)

THREADS = (1, 2, 5)
TOKENS = 110  # more than a block of 96, and tiles of two sizes at the end


def batches(rng):
    """Indices of tokens: each alone, and parts of any length and order; duplicates too."""
    yield from ([token] for token in range(TOKENS))
    yield rng.permutation(TOKENS)
    for count in (2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 95, 96, 97, 193):
        yield rng.integers(0, TOKENS, count)


@pytest.mark.parametrize(
    ("form", "columns"), [(form, 1600) for form in ALL_FORMATS] + [(form, 1605) for form in FLOAT_FORMATS]
)
def test_norm_linear(kernels, set_threads, form, columns):
    """So large that it is shared among threads, more than a chunk of columns, and rows too few for a panel."""
    rng = np.random.default_rng(0)
    x, norm_weight = make_tokens(rng, TOKENS, columns), make_norm_weight(rng, columns)
    weight = make_weight(rng, form, 90, columns)
    set_threads(1)
    whole = kernels.norm_linear(x, norm_weight, weight, EPSILON)
    for threads in THREADS:
        set_threads(threads)
        for tokens in batches(np.random.default_rng(1)):
            assert_same_bits(kernels.norm_linear(x[tokens], norm_weight, weight, EPSILON), whole[tokens])


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_feed_forward_layer(kernels, set_threads, form):
    rng = np.random.default_rng(2)
    x, norm_weight, weights = make_feed_forward(rng, TOKENS, 96, 1600, (form,) * 3, (True, False, True))
    set_threads(1)
    whole = kernels.feed_forward_layer(x, norm_weight, weights, EPSILON)
    for threads in THREADS:
        set_threads(threads)
        for tokens in batches(np.random.default_rng(3)):
            assert_same_bits(kernels.feed_forward_layer(x[tokens], norm_weight, weights, EPSILON), whole[tokens])


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e-36, 1e30])
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_tiles_and_vectors(tiles, form, size):
    """Also of numbers so small that products and parts are below the normal ones, or so large that sums overflow."""
    rng = np.random.default_rng(6)
    x, weight = make_tokens(rng, 40, 544), make_weight(rng, form, 50, 544)
    norm_weight = make_norm_weight(rng, 544) * np.float32(size)
    for count in (1, 2, 3, 8, 9, 16, 17, 40):
        outputs = []
        for use in (True, False):
            assert tiles.use_tiles(use) == use
            outputs.append(tiles.norm_linear(x[:count], norm_weight, weight, EPSILON))
        assert_same_bits(*outputs, f"{count} tokens")


def rows_in_order(scene, order):
    return np.concatenate([np.flatnonzero(scene.rows == row) for row in order])


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_attention_layer(kernels, set_threads, form):
    """The whole chunk, its parts one after the other, and each token alone as a decode step: outputs and pages."""
    rng = np.random.default_rng(4)
    together = make_layer_scene(
        rng, [90, 40, 300, 5], [70, 1, 20, 5], (form,) * 4, heads=6, head_dim=32, columns=288, padding=2,
        biases=(True, False, True, True),
    )  # fmt: skip
    fresh = together.on_copied_pages()
    set_threads(1)
    whole = together.run(kernels)
    for threads in THREADS:
        set_threads(threads)
        for chunk in (1, 3, 7, 96, 97, len(fresh.rows)):
            scene = fresh.on_copied_pages()
            starts = range(0, len(fresh.rows), chunk)
            parts = [scene.only(slice(start, start + chunk)).run(kernels) for start in starts]
            assert_same_bits(np.concatenate(parts), whole, f"{threads} threads, chunks of {chunk}")
            assert_same_bits(scene.key_cache, together.key_cache)
            assert_same_bits(scene.value_cache, together.value_cache)
        for order in ((3, 1, -1, 2, 0), (2,), (-1, 0)):
            scene, tokens = fresh.on_copied_pages(), rows_in_order(fresh, order)
            assert_same_bits(scene.only(tokens).run(kernels), whole[tokens], f"{threads} threads, rows {order}")


@pytest.mark.parametrize("form", ["float32", "Q4_1"])
def test_a_whole_step(kernels, set_threads, form):
    formats = [((form,) * 4, (form,) * 3)] * 3
    together = make_step_scene(np.random.default_rng(6), [90, 40, 5], [70, 1, 5], formats, (form, form), True, heads=6)
    fresh = together.on_copied_pages()
    set_threads(1)
    whole = together.run(kernels)
    for threads in THREADS:
        set_threads(threads)
        for chunk in (1, 7, len(whole)):
            scene = fresh.on_copied_pages()
            parts = [scene.only(slice(i, i + chunk)).run(kernels) for i in range(0, len(whole), chunk)]
            assert_same_bits(np.concatenate(parts), whole, f"{threads} threads, chunks of {chunk}")


@pytest.mark.parametrize("form", ["float32", "Q4_1"])
def test_the_rest_of_a_result_is_what_the_residual_is_added_to(kernels, form):
    rng = np.random.default_rng(5)
    x, norm_weight, weights = make_feed_forward(rng, 7, 64, 96, (form,) * 3)
    alone = kernels.feed_forward_layer(x, norm_weight, weights, EPSILON, adds_residual=False)
    assert_same_bits(kernels.feed_forward_layer(x, norm_weight, weights, EPSILON), x + alone)
    scene = make_layer_scene(rng, [20], [7], (form,) * 4)
    alone = scene.on_copied_pages().run(kernels, adds_residual=False)
    assert_same_bits(scene.run(kernels), scene.x + alone)
