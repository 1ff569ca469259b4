"""Weights in panels of 16 rows: where each number goes, and what products of whole numbers make of it.

That a row is read back exactly is tested with the embedding, in test_layer_ops.py.
"""

import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.custom_ops.build import BuildError, find_compiler
from mindspore_paged.custom_ops.panels import arrange_panels
from tests.custom_ops import layer_reference as reference
from tests.custom_ops.kernel_calls import BFLOAT16, assert_same_bits
from tests.custom_ops.layer_reference import assert_within, make_weight, weight_of
from tests.custom_ops.layer_scenes import (
    ALL_FORMATS,
    BLOCK_FORMATS,
    EPSILON,
    FLOAT_FORMATS,
    make_norm_weight,
    make_tokens,
)

PANEL = 16
ROWS = [1, 15, 16, 17, 33, 48]


def nibbles_of(array):
    """A panel's halves of bytes in order of their size."""
    octets = array.view(np.uint8).ravel()
    return np.sort(np.concatenate([octets & 15, octets >> 4]))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_a_panel_has_what_its_rows_have_and_the_rest_stays(kernels, form, rows):
    weight = make_weight(np.random.default_rng(rows), form, rows, 96)
    before = weight.stored.copy()
    arranged = kernels.arranged(weight)
    assert (arranged.shape, arranged.dtype) == (before.shape, before.dtype)
    assert_same_bits(weight.stored, before)
    whole = rows // PANEL * PANEL
    assert_same_bits(arranged[whole:], before[whole:])
    for first in range(0, whole, PANEL):
        panel = slice(first, first + PANEL)
        assert not np.array_equal(arranged[panel].view(np.uint8), before[panel].view(np.uint8))
        np.testing.assert_array_equal(nibbles_of(arranged[panel]), nibbles_of(before[panel]))


@pytest.mark.parametrize("columns", [1, 5, 32, 193])
@pytest.mark.parametrize("form", FLOAT_FORMATS)
def test_floats_stand_by_columns(kernels, form, columns):
    """Of bfloat16 with row 8 + i beside row i, or 32 columns by pairs, whichever the library multiplies."""
    weight = make_weight(np.random.default_rng(columns), form, 35, columns)
    panels = weight.stored[:32].reshape(2, PANEL, columns)
    by_rows = by_pairs = panels
    if weight.form.dtype == BFLOAT16:
        by_rows = panels.reshape(2, 2, 8, columns).swapaxes(1, 2).reshape(2, PANEL, columns)
        if columns % 32 == 0:
            by_pairs = panels.reshape(2, PANEL, columns // 2, 2).swapaxes(2, 3).reshape(2, PANEL * 2, columns // 2)
    arranged = kernels.arranged(weight)[:32].tobytes()
    allowed = [by_pairs] if kernels.has_tiles else [by_pairs, by_rows]
    assert arranged in [order.swapaxes(1, 2).tobytes() for order in allowed]


def test_rows_that_are_not_contiguous(kernels):
    rows = np.random.default_rng(0).normal(size=(32, 40)).astype(np.float32)
    assert_same_bits(
        arrange_panels(rows[::2, ::2], 0, 20, kernels.path), arrange_panels(rows[::2, ::2].copy(), 0, 20, kernels.path)
    )


@pytest.mark.parametrize("form", ["float32", "bfloat16", "Q4_0"])
@given(data=st.data())
@settings(max_examples=25)
def test_chosen_rows_that_lie_apart_are_arranged_as_if_they_were_alone(kernels, form, data):
    """What a GGUF file's rows of q and k need, and a rank's columns: no copy of theirs in between."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    num_rows = data.draw(st.integers(1, 70))
    weight = make_weight(rng, form, num_rows, 128)
    columns = data.draw(st.sampled_from([slice(0, 128), slice(32, 96), slice(96, 128)]))
    stored = weight.stored.view(np.uint8).reshape(num_rows, -1)
    per_column = stored.shape[1] / 128
    part = stored[:, int(columns.start * per_column) : int(columns.stop * per_column)].view(weight.stored.dtype)
    order = data.draw(st.none() | st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=70).map(np.array))
    chosen = part.copy() if order is None else part[order]
    memory = np.full(chosen.nbytes + 2, 77, np.uint8)
    target = memory[1:-1].view(chosen.dtype).reshape(chosen.shape)
    kind, num_columns = weight.form.kind, columns.stop - columns.start
    part.flags.writeable = False
    assert arrange_panels(part, kind, num_columns, kernels.path, order, target) is target
    assert_same_bits(target, arrange_panels(chosen, kind, num_columns, kernels.path))
    assert memory[0] == memory[-1] == 77


def test_rows_that_are_not_there_and_room_that_does_not_fit(kernels):
    rows = np.zeros((16, 8), np.float32)
    for order in ([16], [-1], [0, 99]):
        with pytest.raises(ValueError, match=r"rows .* of 16"):
            arrange_panels(rows, 0, 8, kernels.path, np.array(order))
    for target in (np.zeros((15, 8), np.float32), np.zeros((16, 8), np.float16), np.zeros((16, 16), np.float32)[:, :8]):
        with pytest.raises(ValueError, match="16 rows of 8 float32 into"):
            arrange_panels(rows, 0, 8, kernels.path, target=target)


def test_a_library_without_panels_is_named(tmp_path):
    other = tmp_path / "other.so"
    subprocess.run([*find_compiler(), "-shared", "-x", "c++", "/dev/null", "-o", str(other)], check=True)
    with pytest.raises(BuildError, match=r"other\.so has no PagedOpsArrangeRows: it is of an older version; run"):
        arrange_panels(np.ones((16, 1), np.float32), 0, 1, other)


WHOLE_NUMBERS = {"int8": (-127, 127), "Q4_0": (-8, 7), "Q4_1": (-3, 12)}


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 5, 7, 8, 97])
@pytest.mark.parametrize("form", BLOCK_FORMATS)
def test_products_of_whole_numbers_are_exact(kernels, form, num_tokens):
    """All scales are 1: the weights' by their extremes, the tokens' by a 32639, the norm's by tokens of -1 and 1."""
    rng = np.random.default_rng(num_tokens)
    low, high = WHOLE_NUMBERS[form]
    numbers = rng.integers(low, high + 1, size=(33, 96))
    numbers[:, ::32], numbers[:, 7::32] = low, high
    weight = weight_of(numbers.astype(np.float32), form)
    np.testing.assert_array_equal(weight.values, numbers)
    norm_weight = rng.integers(-100, 101, size=96)
    norm_weight[[3, 40, 95]] = 32639
    signs = rng.choice([-1, 1], size=(num_tokens, 96))
    output = kernels.norm_linear(signs.astype(np.float32), norm_weight.astype(np.float32), weight, 0.0)
    expected = (signs * norm_weight) @ numbers.T
    assert np.abs(expected).max() < 2**24
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("form", BLOCK_FORMATS)
def test_one_large_number_among_small_ones(kernels, form):
    """Its neighbours lose the most bits, and no more than they may."""
    rng = np.random.default_rng(1)
    norm_weight, weight = make_norm_weight(rng, 160), make_weight(rng, form, 33, 160)
    for num_tokens in (1, 3, 9):
        x = rng.normal(size=(num_tokens, 160)).astype(np.float32)
        for block in range(5):
            x[np.arange(num_tokens), 32 * block + rng.integers(0, 32, num_tokens)] *= 1e4
        output = kernels.norm_linear(x, norm_weight, weight, EPSILON)
        assert_within(output, reference.norm_linear(x, norm_weight, weight, EPSILON))


@pytest.mark.parametrize("form", BLOCK_FORMATS)
def test_where_a_block_becomes_zeros(kernels, form):
    """At 3.9e-34, a little above and below."""
    rng = np.random.default_rng(2)
    weight = make_weight(rng, form, 17, 96)
    for size in (1e-30, 1e-31, 1e-32, 1e-33, 4e-34, 1e-34):
        norm_weight = np.full(96, size, np.float32)
        x = make_tokens(rng, 9, 96)
        output = kernels.norm_linear(x, norm_weight, weight, EPSILON)
        assert_within(output, reference.norm_linear(x, norm_weight, weight, EPSILON))
    ones = np.ones((2, 96), np.float32)
    assert not kernels.norm_linear(ones, np.full(96, 3.8e-34, np.float32), weight, 0.0).any()
    assert kernels.norm_linear(ones, np.full(96, 4e-34, np.float32), weight, 0.0).all()


def overflowing_feed_forward(rng, form, place, up):
    """Weights whose hidden number `place` is infinity times `up`, for tokens whose first number is above 0."""
    gate, ups = (rng.normal(size=(96, 32)).astype(np.float32) for _ in range(2))
    gate[place] = ups[place] = 0
    gate[place, 0], ups[place, 0] = 3e38, up
    return weight_of(gate, "float32"), weight_of(ups, "float32"), make_weight(rng, form, 32, 96)


@pytest.mark.parametrize("up", [0, 3e38, -3e38], ids=["nan", "inf", "-inf"])
@pytest.mark.parametrize("form", BLOCK_FORMATS)
def test_what_is_no_number_between_two_products_makes_its_token_nan_and_no_other(kernels, form, up):
    """For each place in a block of 32, and each of a tile's tokens."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 32)).astype(np.float32)
    x[:, 0] = 0
    for place in range(32, 64):
        weights = overflowing_feed_forward(rng, form, place, up)
        dirty, token = x.copy(), place % 9
        dirty[token, 0] = 10
        clean, output = (
            kernels.feed_forward_layer(tokens, np.ones(32, np.float32), weights, EPSILON) for tokens in (x, dirty)
        )
        assert np.isfinite(clean).all()
        assert np.isnan(output[token]).all()
        others = np.arange(9) != token
        assert_same_bits(output[others], clean[others])
