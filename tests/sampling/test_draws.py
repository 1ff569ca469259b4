"""Draws against their definition, taken a token at a time; those of a batch against those of each row alone."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.sampling.draws import MOST_FEW, draws_among_few, position_of
from mindspore_paged.sampling.filters import FEW, keep_nucleus
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState

VOCAB = 3000
seeds = st.integers(0, 2**32 - 1)
NEAR = 1e-11
"""Shares that differ by less are equal but for the rounding of sums."""


def some_weights(seed, size, levels):
    """float64 from 0 to 1, the largest being 1, as those of a draw; a third are nothing, and many are equal."""
    rng = np.random.default_rng(seed)
    weights = np.exp(-rng.integers(0, levels, size) * rng.uniform(0.001, 0.5))
    weights[rng.random(size) < 0.3] = 0.0
    weights[rng.integers(size)] = 1.0
    return weights


@settings(max_examples=150)
@given(seeds, st.integers(1, 1500), st.sampled_from([2, 60, 4000]), st.floats(0, 1, exclude_max=True))
def test_a_share_of_the_weights_ends_within_the_position(seed, size, levels, uniform):
    weights = some_weights(seed, size, levels)
    position = position_of(weights, uniform)
    assert weights[position] > 0
    exact = [Fraction(weight) for weight in weights.tolist()]
    total = sum(exact)
    before, behind = sum(exact[:position]) / total, sum(exact[: position + 1]) / total
    assert before - Fraction(NEAR) <= Fraction(uniform) <= behind + Fraction(NEAR)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_only_one_has_a_weight(size):
    for place in {0, size // 2, size - 1}:
        weights = np.zeros(size)
        weights[place] = 1e-300
        assert {position_of(weights, uniform) for uniform in (0.0, 0.5, np.nextafter(1.0, 0.0))} == {place}


@settings(max_examples=150)
@given(seeds, st.sampled_from([5, 2 * FEW, 9 * FEW, 40 * FEW]), st.sampled_from([2, 60, 4000]), st.floats(0.01, 0.999))
def test_a_nucleus_is_the_shortest_beginning_of_a_sorted_list(seed, size, levels, top_p):
    weights = some_weights(seed, size, levels)
    kept = weights.copy()
    keep_nucleus(kept, top_p)
    order = np.argsort(-weights, kind="stable")
    count = np.count_nonzero(kept)
    assert set(np.flatnonzero(kept)) == set(order[:count].tolist())
    np.testing.assert_array_equal(kept[kept > 0], weights[kept > 0])
    shares = np.cumsum(weights[order]) / weights.sum()
    assert shares[count - 1] >= top_p - NEAR
    assert count == 1 or shares[count - 2] < top_p + NEAR


params = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([1, 2, 20, 300, MOST_FEW, MOST_FEW + 1, VOCAB]),
        "top_p": st.sampled_from([0.05, 0.5, 0.9, 0.999]),
        "min_p": st.sampled_from([0.01, 0.2, 1.0]),
        "top_n_sigma": st.sampled_from([0.5, 1.5]),
        "typical_p": st.just(0.8),
        "xtc_probability": st.just(0.7),
        "repetition_penalty": st.just(1.3),
        "logit_bias": st.just({7: 3.0, 11: -100}),
        "logprobs": st.just(2),
    },
).map(lambda keys: SamplingParams(**{"temperature": 1.0, "seed": 5} | keys))


@settings(max_examples=100, deadline=None)
@given(seeds, st.lists(params, min_size=1, max_size=6), st.integers(1, 3))
def test_a_row_is_drawn_as_if_it_were_alone(seed, rows, steps):
    """To the token and the number of draws, whatever the others ask for, or if they are broken."""
    rng = np.random.default_rng(seed)
    together, alone = ([SamplingState(each, [3, 7], index) for index, each in enumerate(rows)] for _ in range(2))
    for _ in range(steps):
        logits = (rng.standard_normal((len(rows), VOCAB)) * 3).astype(np.float32)
        logits[rng.random(len(rows)) < 0.1, 5] = np.nan
        found = Sampler().sample(logits, together)
        expected = [Sampler().sample(row[None], [state])[0] for row, state in zip(logits, alone, strict=True)]
        assert list(map(repr, found)) == list(map(repr, expected))
        for one, other in zip(together, alone, strict=True):
            assert repr(one.generator.bit_generator.state) == repr(other.generator.bit_generator.state)


def by_definition(scores, asked, uniform):
    """The token drawn, a step after the other over the whole vocabulary, or None where rounding decides."""
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if asked.top_k > 0:
        order = order[: asked.top_k]
    peak = float(scores.max())
    weights = {token: float(np.exp((float(scores[token]) - peak) / asked.temperature)) for token in order}
    weights = {token: weight for token, weight in weights.items() if weight >= asked.min_p}
    total, reached, kept = sum(weights.values()), 0.0, []
    for token in sorted(weights, key=lambda token: (-weights[token], token)):
        if abs(reached - asked.top_p * total) < NEAR * total:
            return None
        if reached >= asked.top_p * total:
            break
        kept.append(token)
        reached += weights[token]
    total, reached = sum(weights[token] for token in kept), 0.0
    for token in sorted(kept):
        reached += weights[token]
        if abs(reached - uniform * total) < NEAR * total:
            return None
        if reached > uniform * total:
            return token
    return None


@settings(max_examples=80, deadline=None)
@given(
    seeds,
    st.sampled_from([0.2, 1.0, 3.0]),
    st.sampled_from([0, 1, 40, MOST_FEW, MOST_FEW + 1]),
    st.sampled_from([0.3, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05]),
)
def test_tokens_are_those_of_the_definition(seed, temperature, top_k, top_p, min_p):
    asked = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    logits = (np.random.default_rng(seed).standard_normal((1, VOCAB)) * 3).astype(np.float32)
    state, same = SamplingState(asked, [], 0), SamplingState(asked, [], 0)
    expected = by_definition(logits[0], asked, same.generator.random())
    (token,) = Sampler().sample(logits, [state])
    assert expected in (None, token.token_id)


def test_who_is_drawn_together():
    few = [SamplingParams(temperature=1.0, top_k=20), SamplingParams(temperature=1.0, top_k=MOST_FEW, top_p=0.9)]
    many = [{}, {"top_k": VOCAB}, {"top_k": MOST_FEW + 1}, {"top_k": 5, "typical_p": 0.5}]
    many.append({"top_k": 5, "xtc_probability": 0.5})
    assert all(draws_among_few(each, VOCAB) for each in few)
    assert not any(draws_among_few(SamplingParams(temperature=1.0, **each), VOCAB) for each in many)
