"""Tokens that a draft model chooses ahead: by the draws that the target will make, which they leave as they are.

How often both choose the same is known from the two distributions alone: each cuts the unit interval into an interval
a token, and a uniform number chooses the same token where the two intervals of that token overlap.
"""

import numpy as np
import pytest

from mindspore_paged.errors import StepError
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState
from mindspore_paged.sampling.token_rules import TokenRules

VOCAB = 50
PARAMS = [
    {"temperature": 0.0, "repetition_penalty": 1.4},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "seed": 4, "top_p": 0.8, "frequency_penalty": 0.6},
    {"temperature": 1.2, "seed": 5, "xtc_probability": 0.5, "xtc_threshold": 0.05, "logprobs": 2},
]


def chosen(sampler, state, rows) -> list[int]:
    tokens = []
    for row in rows:
        (token,) = sampler.choose(row[None], [state])
        state.observe(token)
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("params", PARAMS)
def test_who_guesses_ahead_by_the_same_logits_guesses_what_is_sampled_then(params):
    rows = np.random.default_rng(1).standard_normal((30, VOCAB)).astype(np.float32)
    rules = TokenRules(bad_words=((int(rows[0].argmax()), int(rows[1].argmax())),))
    sampler, state = Sampler(), SamplingState(SamplingParams(**params), [1, 2, 2], rules=rules)
    untouched = SamplingState(SamplingParams(**params), [1, 2, 2], rules=rules)
    for start in range(0, 30, 5):
        guesses = chosen(sampler, state.ahead(), rows[start : start + 5])
        assert chosen(sampler, state.ahead(), rows[start : start + 5]) == guesses
        sampled = []
        for row in rows[start : start + 5]:
            (token,) = sampler.sample(row[None], [state])
            state.observe(token.token_id)
            sampled.append(token.token_id)
        assert sampled == guesses == chosen(sampler, untouched, rows[start : start + 5])


def test_a_row_that_is_no_number_gives_an_error_and_no_guess():
    (token,) = Sampler().choose(np.full((1, VOCAB), np.nan, np.float32), [SamplingState(SamplingParams(), [])])
    assert isinstance(token, StepError)


def probabilities(logits) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum()


def overlap(p: np.ndarray, q: np.ndarray) -> float:
    """How much of the unit interval both distributions give to the same token."""
    ends_p, ends_q = np.cumsum(p), np.cumsum(q)
    shared = np.minimum(ends_p, ends_q) - np.maximum(ends_p - p, ends_q - q)
    return float(np.maximum(shared, 0).sum())


@pytest.mark.parametrize(("sharpness", "noise"), [(1.0, 0.3), (3.0, 0.3), (3.0, 1.0), (6.0, 1.0)])
def test_guesses_are_right_as_often_as_the_two_distributions_overlap(sharpness, noise):
    random = np.random.default_rng(2)
    target = (random.standard_normal(VOCAB) * sharpness).astype(np.float32)
    draft = (target + random.standard_normal(VOCAB) * noise).astype(np.float32)
    expected = overlap(probabilities(target), probabilities(draft))
    best = np.minimum(probabilities(target), probabilities(draft)).sum()  # Leviathan et al. 2023
    state, sampler, count, right = SamplingState(SamplingParams(temperature=1.0, seed=0), []), Sampler(), 4000, 0
    for _ in range(count):
        (guess,) = sampler.choose(draft[None], [state.ahead()])
        (token,) = sampler.choose(target[None], [state])
        right += guess == token
    assert right / count == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)
    assert expected <= best + 1e-12
