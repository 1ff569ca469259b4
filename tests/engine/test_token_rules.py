"""min_tokens, allowed_token_ids and bad_words: against the answers without them, and a plain rule a token at a time."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.token_rules import TokenRules
from tests.cli_runs import write_gguf
from tests.e2e.models import make_llm

SIZES = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "token_buckets": [8, 32], "max_model_len": 128}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    weights = str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    with make_llm(weights, cache={"num_blocks": 65}, scheduler=SIZES | {"num_speculative_tokens": 2}) as llm:
        yield llm


def answer(llm, **params):
    return llm.generate("Hi", SamplingParams(**{"max_tokens": 30} | params))[0].outputs[0]


def test_nothing_ends_the_text_before_min_tokens(llm):
    plain = answer(llm, ignore_eos=True)
    place = next(place for place in range(2, 20) if plain.token_ids[place] not in plain.token_ids[:place])
    ends = {"stop_token_ids": [plain.token_ids[place]], "ignore_eos": True}
    assert answer(llm, **ends).token_ids == plain.token_ids[: place + 1]
    assert answer(llm, **ends, min_tokens=place).token_ids == plain.token_ids[: place + 1]
    later = answer(llm, **ends, min_tokens=place + 3)
    assert later.token_ids[:place] == plain.token_ids[:place]
    assert len(later.token_ids) > place + 3
    assert plain.token_ids[place] not in later.token_ids[: place + 3]


def test_no_stop_string_is_looked_for_before_them(llm):
    plain = answer(llm, ignore_eos=True)
    stop = next(letter for letter in plain.text if " " < letter <= "~")
    early = answer(llm, stop=stop, ignore_eos=True)
    length = len(early.token_ids)
    late = answer(llm, stop=stop, ignore_eos=True, min_tokens=length)
    assert early.finish_reason == "stop"
    assert len(late.token_ids) > length
    assert late.text.startswith(early.text + stop)


def test_only_allowed_tokens_come(llm):
    allowed = [20, 40, 60]
    assert set(answer(llm, allowed_token_ids=allowed).token_ids) <= set(allowed)
    drawn = answer(llm, allowed_token_ids=allowed, temperature=1.5, seed=1, n=1).token_ids
    assert set(drawn) == set(allowed)
    assert set(answer(llm, allowed_token_ids=[30]).token_ids) == {30}


def test_words_that_never_come(llm):
    for seed in range(50):  # until two letters stand together
        drawn = {"temperature": 1.0, "seed": seed, "ignore_eos": True}
        plain = answer(llm, **drawn)
        found = re.search(r"[!-~]{2}", plain.text)
        if found:
            break
    without = answer(llm, **drawn, bad_words=[found[0], "never there"])
    assert found[0] not in without.text
    assert without.text.startswith(plain.text[: found.start() + 1])  # what is in front of its last token may come


@given(
    st.lists(st.integers(0, 5), max_size=8),
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), max_size=3),
    st.none() | st.sets(st.integers(0, 5)),
    st.sets(st.integers(0, 5)),
    st.integers(0, 6),
)
def test_rules_forbid_what_their_definition_says(output, bad_words, allowed, ends, min_tokens):
    mask = None if allowed is None else np.isin(np.arange(6), list(allowed))
    rules = TokenRules(mask, tuple(bad_words), np.array(sorted(ends), np.int64), min_tokens)
    scores = np.zeros(6, np.float32)
    rules.forbid(scores, output)
    for token in range(6):
        text = [*output, token]
        forbidden = allowed is not None and token not in allowed
        forbidden |= token in ends and len(output) < min_tokens
        forbidden |= any(text[-len(word) :] == list(word) for word in bad_words)
        assert (scores[token] == -np.inf) == forbidden


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prompt_logprobs": -1}, "prompt_logprobs is -1; it must be from 0 to 128, or none"),
        ({"prompt_logprobs": 129}, "prompt_logprobs is 129; it must be from 0 to 128, or none"),
        ({"min_tokens": -1}, "min_tokens is -1; it must be from 0 to max_tokens"),
        ({"min_tokens": 31}, "min_tokens is 31; it must be from 0 to max_tokens"),
        (
            {"min_tokens": 2, "structured_outputs": {"regex": "a"}},
            "min_tokens is 2; beside structured_outputs it must be 0",
        ),
        ({"allowed_token_ids": []}, r"allowed_token_ids is \[\]; it must be a list of whole numbers, at least one"),
        ({"allowed_token_ids": ["a"]}, "allowed_token_ids is"),
        ({"allowed_token_ids": [1, 10_000]}, "allowed_token_ids has token 10000, which is no token of this model"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids has token -1"),
        ({"bad_words": [" "]}, "bad_words is"),
        ({"bad_words": [5]}, "bad_words is"),
        ({"bad_words": ["a"] * 1000}, "bad_words is"),
    ],
)
def test_what_cannot_be_is_one_line(llm, params, message):
    with pytest.raises(RequestError, match=message) as refused:
        answer(llm, **params)
    assert "\n" not in str(refused.value)
