"""Filters against their definitions, written out a token at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.filters import GROUP, exclude_top_choices, keep_typical, largest, within_sigmas
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState

some_weights = st.lists(st.floats(1e-6, 1.0) | st.just(0.0), min_size=2, max_size=30).filter(any).map(np.array)
seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 40 * GROUP), st.integers(1, 40), st.sampled_from([2, 50, 2**30]))
def test_the_largest_of_many_are_the_first_of_a_sorted_list(seed, size, count, levels):
    values = np.random.default_rng(seed).integers(0, levels, size).astype(np.float32)
    values[::7] = -np.inf
    order = np.argsort(-values, kind="stable")
    assert largest(values, count).tolist() == sorted(order[:count].tolist())


def typical_by_definition(weights, mass):
    """Token by token: who is kept depends on the mass of those whose surprise is nearer to the expected one."""
    shares = [weight / sum(weights) for weight in weights]
    expected = -sum(share * math.log(share) for share in shares if share)
    distance = [abs(-math.log(share) - expected) if share else math.inf for share in shares]
    order = sorted((token for token in range(len(shares)) if shares[token]), key=lambda token: distance[token])
    total, last = 0.0, order[-1]
    for token in order:
        total += shares[token]
        if total >= mass:
            last = token
            break
    return [share > 0 and distance[token] <= distance[last] for token, share in enumerate(shares)]


@settings(max_examples=200)
@given(some_weights, st.sampled_from([0.1, 0.37, 0.5, 0.93]))
def test_typical_weights_are_those_of_the_definition(weights, mass):
    kept = weights.copy()
    keep_typical(kept, mass)
    expected = np.array(typical_by_definition(weights.tolist(), mass))
    # Where the masses meet to the last bit, either is right.
    if not np.array_equal(kept > 0, expected):
        shares = np.sort(weights / weights.sum())
        assert np.isclose(np.cumsum(shares), mass, rtol=1e-9).any() or np.isclose(np.diff(shares), 0, atol=1e-12).any()
    assert set(kept[kept > 0]) <= set(weights)


@given(seeds, st.sampled_from([0.5, 1.0, 2.0]))
def test_logits_within_some_deviations_of_the_largest(seed, sigmas):
    scores = np.random.default_rng(seed).normal(size=40).astype(np.float32)
    scores[::7] = -np.inf
    finite = [float(score) for score in scores if score > -np.inf]
    mean = sum(finite) / len(finite)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in finite) / len(finite))
    kept = within_sigmas(scores, scores.max(), sigmas)
    for before, after in zip(scores.tolist(), kept.tolist(), strict=True):
        distance = max(finite) - sigmas * deviation
        assert (after == before) if before > distance + 1e-5 else (before > distance - 1e-5 or after == -math.inf)


@given(some_weights, st.sampled_from([0.0, 0.05, 0.2, 0.6]))
def test_the_least_likely_of_the_top_choices_stays(weights, threshold):
    kept = weights.copy()
    exclude_top_choices(kept, threshold)
    shares = weights / weights.sum()
    top = [token for token, share in enumerate(shares) if share >= threshold]
    stays = min(top, key=lambda token: (weights[token], token)) if len(top) > 1 else None
    expected = [
        0.0 if len(top) > 1 and token in top and token != stays else weights[token] for token in range(len(shares))
    ]
    if not np.isclose(shares, threshold, rtol=1e-12).any():
        np.testing.assert_array_equal(kept, expected)


def drawn(logits, count, **params):
    state = SamplingState(SamplingParams(temperature=1.0, seed=3, **params), [0])
    row = np.asarray(logits, np.float32)[None]
    return [Sampler().sample(row, [state])[0].token_id for _ in range(count)]


LOGITS = np.log([0.4, 0.3, 0.2, 0.06, 0.04])


@pytest.mark.parametrize(
    ("params", "possible"),
    [
        ({"xtc_probability": 1.0, "xtc_threshold": 0.15}, {2, 3, 4}),
        ({"xtc_probability": 0.5, "xtc_threshold": 0.15}, {0, 1, 2, 3, 4}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.5}, {0, 1, 2, 3, 4}),
        ({"top_n_sigma": 0.5}, {0, 1}),
        ({"typical_p": 0.25}, {1}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.1, "top_k": 2}, {1}),
    ],
)
def test_what_is_drawn_with_each(params, possible):
    assert set(drawn(LOGITS, 300, **params)) == possible


def test_xtc_goes_by_its_probability():
    tokens = drawn(LOGITS, 4000, xtc_probability=0.25, xtc_threshold=0.15)
    share = sum(token in (0, 1) for token in tokens) / len(tokens)
    assert abs(share - 0.75 * 0.7) < 0.03


def test_draws_without_them_are_what_they_were():
    neutral = {"typical_p": 1.0, "top_n_sigma": 0.0, "xtc_probability": 0.0}
    assert drawn(LOGITS, 50, **neutral) == drawn(LOGITS, 50)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"typical_p": 0}, "typical_p is 0; it must be above 0 and at most 1"),
        ({"top_n_sigma": -1}, "top_n_sigma is -1; it must be 0 or more"),
        ({"xtc_probability": 1.5}, "xtc_probability is 1.5; it must be from 0 to 1"),
        ({"xtc_threshold": "x"}, "xtc_threshold is 'x'; it must be a finite number"),
    ],
)
def test_values_out_of_range(params, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(**params)
