"""logit_bias against its definition in NumPy, and what is refused of it."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.errors import RequestError
from mindspore_paged.prompts_file import read_prompts_file
from mindspore_paged.sampling.logit_bias import MAX_LOGIT_BIAS
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState

FILTERS = (
    {},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 4},
    {"temperature": 1.3, "top_p": 0.7, "min_p": 0.05},
)
PENALTIES = ({}, {"repetition_penalty": 1.5}, {"presence_penalty": 1.0, "frequency_penalty": 0.5})


def biased(logits, bias: dict) -> np.ndarray:
    dense = np.zeros(logits.size, np.float32)
    for token, value in bias.items():
        dense[token] = value
    return logits + dense


@given(
    seed=st.integers(0, 2**32 - 1),
    bias=st.dictionaries(st.integers(0, 19), st.floats(-100, 100, width=32), max_size=20),
    options=st.sampled_from(FILTERS),
    penalties=st.sampled_from(PENALTIES),
)
@settings(max_examples=60, deadline=None)
def test_it_samples_as_from_logits_that_have_the_bias_already(seed, bias, options, penalties):
    logits = np.random.default_rng(seed).standard_normal((3, 20)).astype(np.float32) * 3
    params = SamplingParams(seed=1, **options, **penalties)
    # A neighbour on either side that has none: it must not change either.
    states = [SamplingState(one, (4, 5)) for one in (params, replace(params, logit_bias=bias), params)]
    wanted_states = [SamplingState(params, (4, 5)) for _ in range(3)]
    before = logits.copy()
    for _ in range(3):
        wanted = Sampler().sample(np.stack([logits[0], biased(logits[1], bias), logits[2]]), wanted_states)
        found = Sampler().sample(logits, states)
        assert found == wanted
        for token, state, other in zip(found, states, wanted_states, strict=True):
            state.observe(token.token_id)
            other.observe(token.token_id)
    assert np.array_equal(logits, before)


def test_logprobs_are_those_of_the_model_without_it():
    logits = np.array([[0.0, 2.0, 1.0, -1.0]], np.float32)
    params = SamplingParams(logprobs=2, logit_bias={3: 100})
    (token,) = Sampler().sample(logits, [SamplingState(params, ())])
    shares = np.exp(logits[0].astype(float)) / np.exp(logits[0].astype(float)).sum()
    assert token.token_id == 3
    assert token.logprob == pytest.approx(math.log(shares[3]))
    assert [pair[0] for pair in token.top_logprobs] == [1, 2]
    assert [pair[1] for pair in token.top_logprobs] == pytest.approx(np.log(shares[[1, 2]]))


@pytest.mark.parametrize(
    "given",
    [
        {5: 1, 2: -3.5},
        {"5": 1.0, "2": -3.5},
        {"02": -3.5, 5: True + 0.0},
        {np.int64(5): np.float32(1), 2: np.float64(-3.5)},
        ((2, -3.5), (5, 1.0)),
    ],
    ids=str,
)
def test_one_bias_has_one_form_that_is_a_key(given):
    params = SamplingParams(logit_bias=given)
    assert params.logit_bias == ((2, -3.5), (5, 1.0))
    assert {params: 1}[SamplingParams(logit_bias={5: 1, 2: -3.5})] == 1
    assert params.biases is not None
    assert pickle.loads(pickle.dumps(params)) == params == replace(params)
    assert replace(params, logit_bias=None) == SamplingParams(logit_bias={}) == SamplingParams()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "logit_bias is 3; it must be a mapping"),
        ([[1, 2]], "logit_bias is"),
        ((1, 2), "logit_bias is"),
        ("{}", "logit_bias is '{}'"),
        ({5: 100.5}, "logit_bias of token 5 is 100.5; it must be a number from -100 to 100"),
        ({5: -101}, "logit_bias of token 5 is -101"),
        ({5: math.nan}, "logit_bias of token 5 is nan"),
        ({5: math.inf}, "logit_bias of token 5 is inf"),
        ({5: 10**5000}, "logit_bias of token 5 is a number of 16610 bits"),
        ({5: True}, "logit_bias of token 5 is True"),
        ({5: "1"}, "logit_bias of token 5 is '1'"),
        ({5: None}, "logit_bias of token 5 is None"),
        ({"five": 1}, "logit_bias is given for 'five'; it must be given for token ids"),
        ({"-5": 1}, "logit_bias is given for '-5'"),
        ({"٣": 1}, "logit_bias is given for"),
        ({"9" * 5000: 1}, "logit_bias is given for '999"),
        ({5.0: 1}, "logit_bias is given for 5.0"),
        ({True: 1}, "logit_bias is given for True"),
        ({"5": 1, 5: 1}, "logit_bias is given twice for token 5"),
        (dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1), "logit_bias is of 301 tokens; it must be of 300 at most"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_a_bad_bias_is_refused_in_one_line_that_names_it(given, said):
    with pytest.raises(RequestError) as refusal:
        SamplingParams(logit_bias=given)
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_line_of_a_prompts_file_may_have_one(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "logit_bias": {"50": -100}}\n{"prompt": "b"}\n{"prompt": "c", "logit_bias": {}}\n')
    entries = read_prompts_file(path, SamplingParams(logit_bias={1: 2}))
    assert [entry.params.logit_bias for entry in entries] == [((50, -100.0),), ((1, 2.0),), ()]
    path.write_text('{"prompt": "a", "logit_bias": {"50": -200}}\n')
    with pytest.raises(RequestError, match=r"prompts.jsonl line 1: logit_bias of token 50 is -200"):
        read_prompts_file(path, SamplingParams())
