"""Siblings of one prompt, each against its text written alone: sampled without pages, from the same stream of draws."""

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_state import SamplingState
from tests.engine.paged_oracle import VOCAB, make_engine, next_token, run_to_end

PARAMS = SamplingParams(n=4, temperature=0.3, seed=11, max_tokens=14)


def written_alone(prompt, params, index) -> list[int]:
    """The sibling's tokens, from the oracle's logits for its own tokens and its own draws."""
    state, tokens = SamplingState(params, prompt, index), list(prompt)
    for _ in range(params.max_tokens):
        logits = np.zeros((1, VOCAB), np.float32)
        logits[0, next_token(tokens)] = 1.0
        (sampled,) = Sampler().sample(logits, [state])
        state.observe(sampled.token_id)
        tokens.append(sampled.token_id)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 15])
@pytest.mark.parametrize(
    ("options", "preempts"),
    [
        ({}, False),
        ({"max_num_seqs": 2}, False),
        ({"num_blocks": 12, "max_num_batched_tokens": 5}, True),
        ({"num_blocks": 12, "enable_prefix_caching": False}, True),
    ],
)
def test_every_sibling_writes_what_it_would_alone(length, options, preempts):
    engine = make_engine(**options)
    prompt = [7 * place % VOCAB for place in range(length)]
    ids = [engine.add_request(engine.make_request(prompt, PARAMS)) for _ in range(2)]
    answers = run_to_end(engine).answers
    for request_id in ids:
        for output in answers[request_id].outputs:
            assert output.token_ids == written_alone(prompt, PARAMS, output.index)
    assert (engine.scheduler.num_preemptions > 0) == preempts
    assert len({tuple(output.token_ids) for output in answers[ids[0]].outputs}) == 4


def test_penalties_of_a_sibling_count_its_own_tokens():
    params = SamplingParams(n=3, temperature=0.5, seed=2, max_tokens=14, frequency_penalty=1.5, repetition_penalty=1.2)
    engine = make_engine(num_blocks=12)
    prompt = [3, 1, 4, 1, 5]
    request_id = engine.add_request(engine.make_request(prompt, params))
    for output in run_to_end(engine).answers[request_id].outputs:
        assert output.token_ids == written_alone(prompt, params, output.index)
