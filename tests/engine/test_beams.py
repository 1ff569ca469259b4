"""Beam searches in an engine, each against a search over whole rows of what the device would answer."""

from itertools import product
from zlib import crc32

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor
from mindspore_paged.engine.scheduling.ngram_proposer import NgramProposer
from mindspore_paged.engine.scheduling.policies import policy_by_name
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.errors import RequestError, StepError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from tests.engine import paged_oracle
from tests.engine.paged_oracle import VOCAB, OracleRunner, make_engine, run_to_end
from tests.reference.beam_search import beam_search

PROMPTS = [[7 * place % VOCAB for place in range(length)] for length in (1, 3, 4, 7, 9, 17)]
SIZES = {"roomy": {}, "four rows": {"max_num_seqs": 4}, "chunks": {"max_num_batched_tokens": 4, "max_num_seqs": 4}}


def logits_behind(context) -> np.ndarray:
    """What the device answers behind tokens: likely are few, so that beams meet again and again."""
    rng = np.random.default_rng(crc32(np.asarray(context, np.int32).tobytes()))
    return rng.standard_normal(VOCAB).astype(np.float32) * 2


class SpreadOracle(OracleRunner):
    """The oracle's device, which gives every token a chance."""

    def run(self, inputs) -> np.ndarray:
        return np.array([logits_behind(context) for context in self._contexts(inputs)], np.float32)


@pytest.fixture(autouse=True)
def spread(monkeypatch):
    monkeypatch.setattr(paged_oracle, "OracleRunner", SpreadOracle)


def expected_beams(prompt, params, eos=()):
    def logprobs(tokens):
        logits = logits_behind([*prompt, *tokens]).astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    eos = () if params.ignore_eos else eos
    return beam_search(
        logprobs, params.beam_width, params.max_tokens, eos, params.length_penalty, params.early_stopping
    )


def greedy_tokens(prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_behind(tokens).argmax()))
    return tokens[len(prompt) :]


def add(engine: LLMEngine, prompt, params) -> str:
    return engine.add_request(engine.make_request(prompt, params))


def check(output, prompt, params, eos=()):
    expected = expected_beams(prompt, params, eos)[: params.n]
    assert output.error is None
    assert [beam.token_ids for beam in output.outputs] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([beam.cumulative_logprob for beam in output.outputs], [total for _, total in expected])
    assert [beam.index for beam in output.outputs] == list(range(len(expected)))
    for beam in output.outputs:
        ends = not params.ignore_eos and beam.token_ids[-1] in eos
        assert beam.finish_reason == ("stop" if ends else "length")


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_beams_are_those_of_a_search_without_pages(width, options):
    engine = make_engine(**options)
    params = BeamSearchParams(width, 11)
    for prompt in PROMPTS:
        request_id = add(engine, prompt, params)
        check(run_to_end(engine).answers[request_id], prompt, params)
    assert engine.scheduler.num_preemptions == 0


OTHERS = {
    "prompts uncut": {"enable_chunked_prefill": False, "max_num_batched_tokens": 30},
    "room set aside": {"reserve_max_model_len": True, "num_blocks": 17},
    "lengths predicted": {"predictor": LengthPredictor()},
    "shortest first": {"policy": policy_by_name("shortest", lambda request: len(request.prompt_token_ids))},
    "runs": {"contiguous_priority": 0},
    "drafts": {"speculation": Speculation(NgramProposer(1, 3), 2)},
    "host tier": {"host_tier": HostTier(2**20), "num_blocks": 10},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_searches_under_every_way_to_schedule(options):
    engine = make_engine(**{"num_blocks": 11, "max_model_len": 30, "max_num_batched_tokens": 8} | options)
    requests = [(prompt, BeamSearchParams(1 + place % 4, 12)) for place, prompt in enumerate(PROMPTS)]
    ids = [(add(engine, *request), add(engine, [5, 5], SamplingParams(max_tokens=9))) for request in requests]
    answers = run_to_end(engine).answers
    for request, (searched, sampled) in zip(requests, ids):
        check(answers[searched], *request)
        assert answers[sampled].outputs[0].token_ids == greedy_tokens([5, 5], 9)
    assert engine.scheduler.cache.pool.num_used == 0


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
@pytest.mark.parametrize(("num_blocks", "width"), [(9, 2), (9, 4), (11, 3), (14, 4)])
def test_searches_that_preempt_each_other_and_others_beside_them(num_blocks, width, enable_prefix_caching):
    engine = make_engine(
        num_blocks=num_blocks, max_model_len=30, max_num_batched_tokens=8,
        enable_prefix_caching=enable_prefix_caching,
    )  # fmt: skip
    params, greedy = BeamSearchParams(width, 12), SamplingParams(max_tokens=12)
    ids = [(add(engine, prompt, params), add(engine, prompt[::-1], greedy)) for prompt in PROMPTS]
    answers = run_to_end(engine).answers
    for prompt, (searched, sampled) in zip(PROMPTS, ids):
        check(answers[searched], prompt, params)
        assert answers[sampled].outputs[0].token_ids == greedy_tokens(prompt[::-1], 12)
    assert engine.scheduler.num_preemptions > 0
    assert engine.scheduler.cache.pool.num_used == 0


@pytest.mark.parametrize(("penalty", "early_stopping"), list(product([1.0, 0.0, 2.0, -0.5], [False, True, "never"])))
def test_ends_penalties_and_early_stopping(penalty, early_stopping):
    eos = tuple(range(6))
    engine = make_engine(eos_token_ids=eos)
    reasons = set()
    for seed, ignore_eos in product(range(4), [False, True]):
        params = BeamSearchParams(
            3, 10, ignore_eos=ignore_eos, length_penalty=penalty, early_stopping=early_stopping, n=2
        )
        request_id = add(engine, [seed, 5], params)
        output = run_to_end(engine).answers[request_id]
        check(output, [seed, 5], params, eos)
        reasons |= {beam.finish_reason for beam in output.outputs}
    assert reasons == {"stop", "length"}


def test_beams_share_the_pages_of_what_they_have_in_common():
    prompt = PROMPTS[-1] * 2
    engine = make_engine(num_blocks=64, max_model_len=48)
    add(engine, prompt, BeamSearchParams(4, 8))
    run_to_end(engine)
    alone = engine.scheduler.cache.blocks_for(len(prompt) + 7)
    assert alone == 11
    assert alone <= engine.metrics.peak_used_blocks <= alone + 3 * 4  # four copies would be 44


def test_a_search_is_told_whole_at_its_end():
    engine = make_engine()
    request_id = add(engine, [1, 2, 3], BeamSearchParams(3, 5, n=2))
    result = run_to_end(engine)
    begun, *whole = result.updates
    assert (begun.text, begun.token_ids, begun.finish_reason) == ("", [], None)
    assert [(update.index, update.finish_reason) for update in whole] == [(0, "length"), (1, "length")]
    answers = result.answers[request_id].outputs
    assert [update.token_ids for update in whole] == [answer.token_ids for answer in answers]
    assert engine.metrics.num_first_tokens == 1
    assert engine.metrics.num_output_tokens == 15


@pytest.mark.parametrize("num_steps", [0, 1, 4])
def test_a_search_that_is_aborted_tells_what_it_has(num_steps):
    engine = make_engine()
    request_id = add(engine, [1, 2, 3], BeamSearchParams(3, 9))
    for _ in range(num_steps):
        engine.step()
    output = engine.abort(request_id)
    engine.check_integrity()
    assert [beam.finish_reason for beam in output.outputs] == ["abort"] * 3
    if num_steps:
        expected = expected_beams([1, 2, 3], BeamSearchParams(3, num_steps))
        assert [beam.token_ids for beam in output.outputs] == [tokens for tokens, _ in expected]


def test_a_row_that_is_not_finite_ends_its_search_alone(monkeypatch):
    engine = make_engine()
    run = engine.runner.run

    def broken(inputs):
        logits = run(inputs)
        logits[[place for place, token in enumerate(inputs.logit_indices) if inputs.positions[token] == 5], 0] = np.nan
        return logits

    monkeypatch.setattr(engine.runner, "run", broken)
    searched = add(engine, [1, 2, 3], BeamSearchParams(3, 9))
    other = add(engine, [4, 5], SamplingParams(max_tokens=4))
    answers = run_to_end(engine).answers
    assert "must be finite" in answers[searched].error
    assert [beam.finish_reason for beam in answers[searched].outputs] == ["error"] * 3
    assert answers[other].outputs[0].token_ids == greedy_tokens([4, 5], 4)


def test_a_step_that_fails_once_costs_no_beam(monkeypatch):
    engine = make_engine()
    run, failures = engine.runner.run, iter([*[False] * 3, True, *[False] * 6, True])

    def failing(inputs):
        if next(failures, False):
            raise StepError("the device had a moment")
        return run(inputs)

    monkeypatch.setattr(engine.runner, "run", failing)
    params = BeamSearchParams(4, 8)
    request_id = add(engine, PROMPTS[2], params)
    output = run_to_end(engine).answers[request_id]
    assert next(failures, None) is None
    check(output, PROMPTS[2], params)


def test_the_window_of_a_model_is_given_back_for_beams_too(monkeypatch):
    engine = make_engine(window=6)
    params = BeamSearchParams(3, 12)
    request_id = add(engine, PROMPTS[4], params)
    output = run_to_end(engine).answers[request_id]

    def logprobs(tokens):
        logits = logits_behind([*PROMPTS[4], *tokens][-6:]).astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    assert [beam.token_ids for beam in output.outputs] == [tokens for tokens, _ in beam_search(logprobs, 3, 12)]


def test_more_beams_than_rows_or_continuations_are_refused():
    engine = make_engine(max_num_seqs=8, eos_token_ids=range(9))
    with pytest.raises(RequestError, match=r"beam_width is 9; it must be at most scheduler.max_num_seqs \(8\)"):
        engine.make_request([1], BeamSearchParams(9, 4))
    with pytest.raises(RequestError, match="beam_width is 7; a vocabulary of 64 tokens allows at most 6"):
        engine.make_request([1], BeamSearchParams(7, 4))
    engine.make_request([1], BeamSearchParams(8, 4, ignore_eos=True))
