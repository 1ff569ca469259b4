"""Sampling keys against the logits processors of Hugging Face transformers: tests/goldens/logits_processors.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState
from mindspore_paged.sampling.token_rules import TokenRules

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "logits_processors.json").read_text(encoding="utf-8"))
TOKENS, LENGTH = GOLDENS["token_ids"], GOLDENS["prompt_length"]
LOGITS = np.array(GOLDENS["logits"], np.float32)


def cases(kind) -> list:
    return [
        pytest.param(case["params"], row, scores, id=f"{case['name']}-{place}")
        for case in GOLDENS[kind]
        for place, (row, scores) in enumerate(zip(LOGITS, case["scores"], strict=True))
    ]


def scores_of(values) -> np.ndarray:
    return np.array([-np.inf if value is None else value for value in values])


def has_bad_words(scores) -> bool:
    return scores[GOLDENS["bad_words_ids"][0][0]] is None


@pytest.mark.parametrize(("params", "row", "scores"), cases("edits"))
def test_edited_logits_are_those_of_transformers(params, row, scores):
    params = SamplingParams(**params)
    bad_words = tuple(map(tuple, GOLDENS["bad_words_ids"])) if has_bad_words(scores) else ()
    rules = TokenRules(None, bad_words, np.array(GOLDENS["eos_token_id"]), params.min_tokens)
    state = SamplingState(params, TOKENS[:LENGTH], rules=rules)
    for token in TOKENS[LENGTH:]:
        state.observe(token)
    edited = row.copy()
    state.edit(edited)
    expected = scores_of(scores)
    assert np.array_equal(np.isinf(edited), np.isinf(expected))
    np.testing.assert_allclose(edited, expected, rtol=1e-6)


class Uniform:
    """Draws of one number."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize(("params", "row", "scores"), cases("filters"))
def test_draws_follow_the_distribution_of_transformers(params, row, scores):
    """In the middle of each token's share of the cumulative distribution stands that token, and no other."""
    expected = scores_of(scores)
    shares = np.exp(expected - expected.max()) / np.exp(expected - expected.max()).sum()
    middles = np.cumsum(shares) - shares / 2
    state = SamplingState(SamplingParams(**{"temperature": 1.0} | params), TOKENS)
    possible = np.flatnonzero(shares > 1e-5).tolist()
    assert possible
    for token in possible:
        state.generator = Uniform(middles[token])
        assert Sampler().choose(row[None], [state]) == [token]
