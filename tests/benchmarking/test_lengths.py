"""Lengths of prompts and answers by what a flag spells."""

import numpy as np
import pytest

from mindspore_paged.benchmarking.lengths import parse_lengths
from mindspore_paged.errors import ConfigError


def drawn(text, count=20_000):
    return parse_lengths(text, "--prompt-len").sample(np.random.default_rng(0), count)


@pytest.mark.parametrize("text", ["fixed:7", "7"])
def test_fixed(text):
    assert drawn(text, 3).tolist() == [7, 7, 7]


def test_uniform_has_both_ends():
    values = drawn("uniform:3:5")
    assert set(values) == {3, 4, 5}
    assert values.mean() == pytest.approx(4, rel=0.01)


def test_lognormal_has_its_median_and_mean():
    values = drawn("lognormal:200:0.5")
    assert np.median(values) == pytest.approx(200, rel=0.02)
    assert values.mean() == pytest.approx(200 * np.exp(0.125), rel=0.02)


def test_lognormal_ends_at_one_and_at_its_largest():
    values = drawn("lognormal:20:50:100")
    assert (values.min(), values.max()) == (1, 100)
    assert drawn("lognormal:20:50").min() == 1, "without a largest too, however wide"


NO_DISTRIBUTIONS = """
many fixed:0 fixed:1.5 fixed:1:2 fixed:inf uniform:5:3 uniform:0:3 uniform:5 normal:5:1
lognormal:0.5:1 lognormal:5:-1 lognormal:5:nan lognormal:5:1:0 lognormal:5
"""


@pytest.mark.parametrize("text", ["", *NO_DISTRIBUTIONS.split()])
def test_what_is_no_distribution(text):
    with pytest.raises(ConfigError, match="--prompt-len is .*; it must be fixed:N, uniform:LOW:HIGH or lognormal"):
        parse_lengths(text, "--prompt-len")
