"""DRY against its definition, written out token by token, and against llama.cpp's sampler (tests/goldens/dry.json)."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from mindspore_paged.engine.requests.dry_breakers import DryBreakers
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.dry import Breakers, DryPenalty, matches_of_end
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

VOCAB = 6
texts = st.lists(st.integers(0, 2), max_size=24) | st.lists(st.integers(0, VOCAB - 1), max_size=24)


def params_of(**keys) -> SamplingParams:
    return SamplingParams(**{"dry_multiplier": 0.8, "dry_sequence_breakers": []} | keys)


def longest_repetitions(text, params, breakers) -> dict[int, int]:
    """The tokens that DRY makes less likely, and how long the longest repetition is that each would go on with.

    It is looked for at every place of the window.
    """
    last_n = len(text) if params.dry_penalty_last_n == -1 else params.dry_penalty_last_n
    window = text[max(0, len(text) - last_n) :]
    most = len(window)
    for begins in range(len(window) - 1, -1, -1):  # the breaker that begins last, and of those there the longest
        here = [len(breaker) for breaker in breakers if tuple(window[begins : begins + len(breaker)]) == breaker]
        if here:
            most = len(window) - begins - max(here)
            break
    longest: dict[int, int] = {}
    for place in range(1, len(window)):
        length = 0
        while length < min(place, most) and window[place - 1 - length] == window[-1 - length]:
            length += 1
        longest[window[place]] = max(longest.get(window[place], 0), length)
    return {
        token: length
        for token, length in longest.items()
        if length >= params.dry_allowed_length and (token,) not in breakers
    }


@settings(max_examples=400)
@given(
    texts,
    texts,
    st.integers(0, 4),
    st.just(-1) | st.integers(1, 40),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), max_size=3),
)
def test_penalties_are_those_of_the_definition(prompt, output, allowed_length, last_n, breakers):
    params = params_of(dry_base=1.5, dry_allowed_length=allowed_length, dry_penalty_last_n=last_n)
    penalty = DryPenalty(params, prompt, Breakers(breakers))
    for place, token in enumerate([*output, 0]):
        for each in (penalty, penalty.copy()):
            scores = np.zeros(VOCAB, np.float32)
            each.penalise(scores)
            expected = [0.0] * VOCAB
            for repeated, length in longest_repetitions(prompt + output[:place], params, breakers).items():
                expected[repeated] = 0.8 * 1.5 ** (length - allowed_length)
            np.testing.assert_allclose(-scores, expected, rtol=1e-6)
        penalty.observe(token)


@given(st.lists(st.integers(0, 1), max_size=40))
def test_matches_of_the_end(text):
    for place, length in enumerate(matches_of_end(np.array(text, np.int64)).tolist()):
        if place == len(text) - 1:
            assert length == 0
            continue
        head = text[: place + 1]
        assert length == max(n for n in range(len(head) + 1) if n == 0 or head[-n:] == text[-n:])


def test_a_copy_goes_on_apart():
    penalty = DryPenalty(params_of(), [1, 2, 3, 1])
    ahead = penalty.copy()
    ahead.observe(2)
    scores, of_ahead = np.zeros((2, VOCAB), np.float32)
    penalty.penalise(scores)
    ahead.penalise(of_ahead)
    assert not scores.any()
    assert np.flatnonzero(of_ahead).tolist() == [3]


def test_a_very_long_repetition_leaves_scores_finite():
    penalty = DryPenalty(params_of(dry_base=4.0), [1] * 3000)
    scores = np.zeros(VOCAB, np.float32)
    penalty.penalise(scores)
    assert np.isfinite(scores).all()
    assert scores[1] < -1e29


def byte_level(*words) -> Tokenizer:
    """A tokenizer of single letters and these words, as byte-level BPE has them."""
    letters = sorted({letter for word in words for letter in word} | set("abcx\u010a\u0120:#"))
    vocabulary = {text: place for place, text in enumerate(dict.fromkeys([*letters, *words]))}
    merges = [(word[:cut], word[cut:]) for word in words for cut in range(1, len(word))]
    merges = [pair for pair in merges if pair[0] in vocabulary and pair[1] in vocabulary]
    backend = Backend(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, None, (), None)


def test_a_breaker_is_every_token_that_holds_it_and_every_way_to_say_it():
    tokenizer = byte_level("##", "a#", "#:", "x##", "##:x")
    ids = tokenizer.backend.get_vocab()
    found = set(DryBreakers(tokenizer).sequences("##:"))
    said = lambda breaker: tokenizer.decode(list(breaker))  # noqa: E731
    assert (ids["##:x"],) in found
    assert {breaker[0] for breaker in found if len(breaker) > 1} >= {ids["##"], ids["a#"], ids["x##"], ids["#"]}
    assert all("##:" in said(breaker) for breaker in found)
    assert all("##:" not in said(breaker[:-1]) and "##:" not in said(breaker[1:]) for breaker in found)
    holds = {ids[word] for word in ("#", "##", "a#", "#:", "x##", "##:x")}
    assert {breaker[0] for breaker in DryBreakers(tokenizer).sequences("#")} == holds


GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "dry.json").read_text(encoding="utf-8"))


def test_penalties_are_those_of_llama_cpp():
    """Texts, their tokens and what they break included."""
    vocabulary = {text: token_id for token_id, text in enumerate(GOLDENS["tokens"])}
    backend = Backend(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in GOLDENS["merges"]]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    breakers = DryBreakers(Tokenizer(backend, None, (), None))
    for case in GOLDENS["cases"]:
        for split in (0, len(case["token_ids"]) // 2, len(case["token_ids"])):  # as prompt, and a token at a time
            penalty = breakers.penalty(SamplingParams(**case["params"]), case["token_ids"][:split])
            for token in case["token_ids"][split:]:
                penalty.observe(token)
            scores = np.zeros(len(vocabulary), np.float32)
            penalty.penalise(scores)
            taken = {str(token): -float(scores[token]) for token in np.flatnonzero(scores)}
            assert taken == pytest.approx(case["penalties"], abs=1e-5), case


def test_a_space_in_front_belongs_to_a_breaker():
    tokenizer = byte_level("\u0120a")
    ids = tokenizer.backend.get_vocab()
    assert set(DryBreakers(tokenizer).sequences(" a")) == {(ids["\u0120a"],), (ids["\u0120"], ids["a"])}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dry_multiplier": -1}, "dry_multiplier is -1; it must be 0 or more"),
        ({"dry_multiplier": float("inf")}, "dry_multiplier is inf; it must be a finite number"),
        ({"dry_base": 0.5}, "dry_base is 0.5; it must be 1 or more"),
        ({"dry_allowed_length": -1}, "dry_allowed_length is -1; it must be 0 or more"),
        ({"dry_allowed_length": 1.5}, "dry_allowed_length is 1.5; it must be a whole number"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n is -2; it must be 0 or more, or -1 for all"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers is .*; it must be texts of 1 to 40 characters"),
        ({"dry_sequence_breakers": [5]}, "dry_sequence_breakers is .*; it must be a list of strings"),
        ({"dry_sequence_breakers": ["a"] * 65}, "dry_sequence_breakers is .*; it must be 64 texts at most"),
    ],
)
def test_values_out_of_range(keys, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(**keys)


def test_breakers_need_a_tokenizer():
    breakers = DryBreakers(None)
    with pytest.raises(RequestError, match="dry_sequence_breakers needs a tokenizer, and this model has none"):
        breakers.penalty(SamplingParams(dry_multiplier=1.0), [1])
    assert breakers.penalty(params_of(), [1]) is not None
    assert breakers.penalty(SamplingParams(), [1]) is None
    assert breakers.penalty(SamplingParams(dry_multiplier=1.0, dry_penalty_last_n=0), [1]) is None
