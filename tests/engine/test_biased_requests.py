"""Requests with a logit_bias in the engine, over the device of paged_oracle."""

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.errors import RequestError
from tests.engine.paged_oracle import VOCAB, make_engine, next_token, run_to_end


@pytest.mark.parametrize("token", [-1, VOCAB, pytest.param(10**5000, id="huge")])
def test_a_bias_of_what_is_no_token_of_the_model_is_refused(token):
    engine = make_engine()
    with pytest.raises(RequestError, match=r"^logit_bias is given for token .*no token of this model; allowed: 0..63$"):
        engine.make_request([1, 2], SamplingParams(logit_bias={token: 1, 5: 1}))
    engine.make_request([1, 2], SamplingParams(logit_bias={0: 1, VOCAB - 1: 1}))


def test_every_sequence_of_a_request_is_biased_and_no_neighbour():
    # The device's one likely token has a logit of 1, all others 0.
    engine, bias = make_engine(), {7: -100, 9: 0.5, 11: -0.5} | dict.fromkeys(range(20, 40), -2)
    engine.add_request(engine.make_request([1, 2, 3], SamplingParams(max_tokens=20, n=2, logit_bias=bias), "biased"))
    engine.add_request(engine.make_request([1, 2, 3], SamplingParams(max_tokens=20), "plain"))
    answers = run_to_end(engine).answers

    def expected(bias):
        tokens = [1, 2, 3]
        for _ in range(20):
            logits = np.zeros(VOCAB, np.float32)
            logits[next_token(tokens)] = 1
            for token, value in bias.items():
                logits[token] += value
            tokens.append(int(logits.argmax()))
        return tokens[3:]

    assert [output.token_ids for output in answers["biased"].outputs] == [expected(bias)] * 2
    assert answers["plain"].outputs[0].token_ids == expected({}) != expected(bias)
