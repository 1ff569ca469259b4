"""What a beam search may be asked for, and what of sampling means nothing to it."""

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams, beam_search_params, defaults_for_beams


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beam_width": 0}, "beam_width is 0; it must be a whole number, at least 1"),
        ({"beam_width": True}, "beam_width is True; it must be"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1, or none"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be a number from -16 to 16"),
        ({"length_penalty": 17}, "length_penalty is 17; it must be"),
        ({"temperature": 0.7}, "temperature is 0.7; it must be 0 or 1"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'; it must be true, false or 'never'"),
        ({"n": 3}, r"n is 3; it must be from 1 to beam_width \(2\), or none"),
        ({"ignore_eos": 1}, "ignore_eos is 1; it must be true or false"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(RequestError, match=message):
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 4} | keys)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"top_p": 0.9}, "top_p"),
        ({"stop": "x"}, "stop"),
        ({"n": 2}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"min_tokens": 2}, "min_tokens"),
    ],
)
def test_keys_of_sampling_that_would_do_nothing_are_refused(keys, name):
    with pytest.raises(RequestError, match=f"^{name} is .*; a beam search takes no {name}$"):
        beam_search_params(SamplingParams(**keys), 2)


def test_the_rest_is_taken_over():
    defaults = SamplingParams(max_tokens=9, temperature=0.7, top_p=0.5, ignore_eos=True)
    params = beam_search_params(defaults_for_beams(defaults), 3, length_penalty=0.5, n=2)
    assert params == BeamSearchParams(3, 9, ignore_eos=True, length_penalty=0.5, n=2)
    assert params.of_beams() == SamplingParams(max_tokens=9, ignore_eos=True, n=2)
    assert beam_search_params(SamplingParams(temperature=1.0, top_k=-1, seed=5), 2).temperature == 1.0
