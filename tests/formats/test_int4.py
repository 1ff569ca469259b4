"""Rounding to four bits: against every scale that there is, for small groups, and against GGUF's own rounding."""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quantization

from mindspore_paged.formats.int4 import quantize_int4
from mindspore_paged.formats.weight_format import Q4_0


def squares(weights, blocks):
    return ((gguf.dequantize(blocks, Quantization.Q4_0) - weights) ** 2).reshape(-1, 32).sum(axis=1)


def test_it_is_nearer_than_the_largest_number_alone_would_say():
    weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    ours, plain = squares(weights, quantize_int4(weights)), squares(weights, gguf.quantize(weights, Quantization.Q4_0))
    assert (ours <= plain * 1.001).all()
    assert ours.sum() < 0.9 * plain.sum()


def test_no_scale_is_much_nearer():
    """Tried: 4,000 scales of both signs for each group, each number rounded to the nearest."""
    weights = np.random.default_rng(1).normal(size=(20, 32)).astype(np.float32)
    ours = squares(weights, quantize_int4(weights))
    for group, error in zip(weights, ours, strict=True):
        scales = np.linspace(-1, 1, 4000, dtype=np.float32)[:, None] * np.abs(group).max() / 5
        rounded = np.clip(np.rint(group / scales), -8, 7)
        best = ((rounded * scales - group) ** 2).sum(axis=1).min()
        assert error < 1.1 * best + 1e-6


def test_numbers_that_four_bits_hold_stay_as_they_are():
    rng = np.random.default_rng(2)
    numbers = rng.integers(-8, 8, size=(9, 96)).astype(np.float32)
    numbers[:, ::32] = -8
    weights = numbers * 0.25
    np.testing.assert_array_equal(gguf.dequantize(quantize_int4(weights), Quantization.Q4_0), weights)


def test_nothing_and_what_is_no_number():
    weights = np.ones((4, 64), np.float32)
    weights[0], weights[1, 3], weights[2, 40] = 0, np.nan, np.inf
    values = gguf.dequantize(quantize_int4(weights), Quantization.Q4_0)
    assert not values[0].any()
    assert np.isnan(values[1, :32]).all()
    assert np.isnan(values[2, 32:]).all()
    np.testing.assert_allclose(values[[1, 2], [40, 3]], 1, rtol=1e-3)
    np.testing.assert_allclose(values[3], 1, rtol=1e-3)


def test_it_is_what_the_format_rounds_to():
    weights = np.random.default_rng(3).normal(size=(5, 64)).astype(np.float16)
    np.testing.assert_array_equal(Q4_0.pack(weights), quantize_int4(weights.astype(np.float32)))
