"""Log-probabilities of prompts, beside answers: those of a plain rule, and of a NumPy model, whatever the chunks."""

import math
import random
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.requests.request_maker import RequestMaker
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.errors import RequestError, StepError
from tests.cli_runs import CONFIG, WEIGHTS, write_gguf
from tests.e2e.models import make_llm
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, next_token, run_to_end
from tests.reference import llama as reference

TOLD = SamplingParams(max_tokens=3, prompt_logprobs=2)
PLAIN = SamplingParams(max_tokens=5)


def assert_tells(answer, prompt) -> None:
    first, *others = answer.prompt_logprobs
    assert first is None
    assert [token.token_id for token in others] == prompt[1:]
    total = math.e + VOCAB - 1  # the device has 1 for one token, 0 for all others
    for place, token in enumerate(others, 1):
        likely = next_token(prompt[:place])
        assert token.logprob == pytest.approx((token.token_id == likely) - math.log(total))
        assert token.top_logprobs[0] == (likely, pytest.approx(1 - math.log(total)))
        assert len(token.top_logprobs) == 2


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 40),
    batched=st.integers(4, 40),
    max_num_logits=st.integers(4, 12),
)
@settings(max_examples=40, deadline=None)
def test_they_and_answers_beside_them_are_what_each_is_alone(seed, num_blocks, batched, max_num_logits):
    """In pools so small that prompts start over, and with pages that others computed."""
    rng = random.Random(seed)
    engine = make_engine(
        num_blocks=num_blocks, max_num_seqs=4, max_num_batched_tokens=batched, max_num_logits=max_num_logits
    )
    shared = [rng.randrange(VOCAB) for _ in range(8)]
    asked = {}
    for _ in range(8):
        prompt = [*rng.choice([shared, []]), *(rng.randrange(VOCAB) for _ in range(rng.randint(1, 20)))]
        params = rng.choice([TOLD, PLAIN])
        asked[engine.add_request(engine.make_request(prompt, params))] = prompt, params
        for _ in range(rng.randrange(3)):
            engine.step()
    result = run_to_end(engine)
    for request_id, (prompt, params) in asked.items():
        answer = result.answers.get(request_id)
        if answer is None:  # it ended before run_to_end
            continue
        assert answer.outputs[0].token_ids == expected_tokens(prompt, params.max_tokens)
        if params is TOLD:
            assert_tells(answer, prompt)
        else:
            assert answer.prompt_logprobs is None
    assert max(len(step.logit_indices) for step in engine.runner.steps) <= max_num_logits


def test_pages_of_others_are_not_taken_and_its_own_are():
    engine = make_engine()
    prompt = list(range(1, 17))
    for params, cached in ((TOLD, 0), (TOLD, 0), (PLAIN, 12)):
        request_id = engine.add_request(engine.make_request(prompt, params))
        answer = run_to_end(engine).answers[request_id]
        assert answer.num_cached_tokens == cached


def test_answers_of_before_do_not_stand_for_them():
    engine = make_engine(response_cache=ResponseCache(4))
    for _ in range(2):
        request_id = engine.add_request(engine.make_request([1, 2, 3], TOLD))
        assert_tells(run_to_end(engine).answers[request_id], [1, 2, 3])
    assert engine.metrics.num_response_cache_hits == 0


def test_the_first_update_tells_them_once_however_many_texts_there_are():
    engine = make_engine()
    engine.add_request(engine.make_request([1, 2, 3], SamplingParams(max_tokens=2, n=3, prompt_logprobs=0)))
    told = [update for update in run_to_end(engine).updates if update.prompt_logprobs is not None]
    assert [(update.index, len(update.token_ids)) for update in told] == [(0, 1)]


def test_no_logits_are_kept_behind_their_step(monkeypatch):
    """So that memory does not grow with the prompt: a step has at most max_num_logits rows of them."""
    engine = make_engine(max_num_seqs=4, max_num_batched_tokens=16, max_num_logits=4)
    run, seen = engine.runner.run, []

    def run_alone(inputs):
        assert not any(logits() is not None for logits in seen)
        logits = run(inputs)
        seen.append(weakref.ref(logits))
        return logits

    monkeypatch.setattr(engine.runner, "run", run_alone)
    prompt = list(range(1, 31))
    request_id = engine.add_request(engine.make_request(prompt, TOLD))
    assert_tells(run_to_end(engine).answers[request_id], prompt)
    assert len(seen) == 8 + 2  # chunks of 4, then two more tokens


def test_prompts_that_cannot_be_cut_are_refused():
    maker = RequestMaker(None, ModelLimits(VOCAB, 40, cuts_prompts=False))
    with pytest.raises(RequestError, match="prompt_logprobs needs scheduler.enable_chunked_prefill: true"):
        maker.make([1, 2, 3], TOLD)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.mark.parametrize(
    "options", [{}, {"num_speculative_tokens": 2}, {"max_num_seqs": 2}], ids=["plain", "drafts", "few rows"]
)
def test_a_model_scores_prompts_as_a_plain_one_in_float64_does(weights, options):
    sizes = {"max_num_seqs": 5, "max_num_batched_tokens": 32, "token_buckets": [8, 32], "max_model_len": 128}
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, CONFIG.vocab_size, length).tolist() for length in (1, 2, 7, 90)]
    with make_llm(weights, cache={"num_blocks": 65}, scheduler=sizes | options) as llm:
        for _ in range(2):  # the second time with pages of the first in the cache
            scores = llm.score(prompts)
            for prompt, found in zip(prompts, scores, strict=True):
                logits = reference.logits(CONFIG, WEIGHTS, prompt)
                logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
                expected = [row[token] for row, token in zip(logprobs, prompt[1:], strict=False)]
                np.testing.assert_allclose(found, expected, atol=1e-3)
        assert llm.get_statistics()["compiles_after_warmup"] == 0
        llm.engine.check_integrity()


def test_a_model_that_computes_no_numbers_scores_nothing(weights, monkeypatch):
    with make_llm(
        weights, cache={"num_blocks": 9}, scheduler={"token_buckets": [8], "max_num_batched_tokens": 8}
    ) as llm:
        run = llm.engine.runner.run
        monkeypatch.setattr(llm.engine.runner, "run", lambda inputs: run(inputs) * np.float32("nan"))
        with pytest.raises(StepError, match="^request '.*': the largest logit is nan; it must be finite$"):
            llm.score([[1, 2, 3]])
        llm.engine.check_integrity()
