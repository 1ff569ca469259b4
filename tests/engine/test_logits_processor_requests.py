"""Logits processors in whole answers: with drafts, several answers, forms, replicas; and what fails alone."""

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.llm import LLM
from tests.cli_runs import write_gguf
from tests.e2e.models import make_llm
from tests.sampling import processors

HERE = "tests.sampling.processors"
SIZES = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "token_buckets": [8, 32], "max_model_len": 128}
PROMPT = "to be or not to be or not to be"


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    weights = str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    cache = {"num_blocks": 65, "response_cache_entries": 8}
    with make_llm(weights, cache=cache, scheduler=SIZES | {"num_speculative_tokens": 3}) as llm:
        yield llm


def answer(llm, *functions, **params):
    params = SamplingParams(**{"max_tokens": 30, "ignore_eos": True, "logits_processors": list(functions)} | params)
    return llm.generate(PROMPT, params)[0]


def test_greedy_tokens_are_the_best_of_what_is_left(llm):
    output = answer(llm, f"{HERE}:another_than_before", processors.only_even, logprobs=-1)
    text, first = list(output.prompt_token_ids), output.prompt_token_ids[0]
    for token in output.outputs[0].logprobs:
        left = {other: logprob for other, logprob in token.top_logprobs if other % 2 == 0}
        left = {other: logprob for other, logprob in left.items() if other not in (first, text[-1])}
        assert token.token_id == max(left, key=left.get)
        text.append(token.token_id)


def test_drafts_change_nothing(llm):
    """A text that goes round in a circle, so that drafts are right, and what a processor says at each place of it."""
    circle = llm.tokenizer.encode("be or not to ", add_special_tokens=False)
    calls = []

    def go_round(prompt, output, logits):
        place = len(output)
        calls.append(place)
        logits[circle[place % len(circle)]] += np.float32(1000)
        return logits

    before = llm.get_statistics()["num_accepted_tokens"]
    output = answer(llm, go_round)
    assert output.outputs[0].token_ids == [circle[place % len(circle)] for place in range(30)]
    assert llm.get_statistics()["num_accepted_tokens"] > before
    assert sorted(set(calls)) == list(range(30))


def test_each_of_several_answers_has_its_own_output(llm):
    outputs = []

    def watch(output, logits):
        outputs.append(tuple(output))
        return logits

    answers = answer(llm, watch, n=3, temperature=1.0, seed=4).outputs
    texts = [tuple(one.token_ids) for one in answers]
    assert len(set(texts)) == 3
    assert {tuple(text[:length]) for text in texts for length in range(30)} == set(outputs)
    assert answers == answer(llm, n=3, temperature=1.0, seed=4).outputs


def test_one_that_fails_ends_its_request_alone(llm):
    failing = SamplingParams(max_tokens=10, logits_processors=[f"{HERE}:fails_at_third"], n=2)
    broken, well = llm.generate([PROMPT, PROMPT], [failing, SamplingParams(max_tokens=10)])
    assert broken.error == f"logits_processors: {HERE}.fails_at_third failed: ValueError: no more"
    assert [len(one.token_ids) for one in broken.outputs] == [2, 2]
    assert {one.finish_reason for one in broken.outputs} == {"error"}
    assert well.error is None
    assert len(well.outputs[0].token_ids) == 10


class Counter:
    """A function that cannot be a key of a cache."""

    __hash__ = None

    def __init__(self):
        self.count = 0

    def __call__(self, output, logits):
        self.count += 1
        return logits


def test_a_remembered_answer_is_never_one_of_theirs(llm):
    counter = Counter()
    answer(llm, counter)
    before = counter.count
    answer(llm, counter)
    assert before > 0
    assert counter.count == 2 * before


def test_what_a_form_leaves_no_choice_of_is_asked_about_too(llm):
    form = {"structured_outputs": {"choice": ["bdfh"]}, "ignore_eos": False}
    counter = Counter()
    plain = answer(llm, **form).outputs[0]
    assert answer(llm, counter, **form).outputs[0] == plain
    assert counter.count >= len(plain.token_ids)
    third = plain.token_ids[2]

    def forbid_third(output, logits):
        logits[third] = -np.inf
        return logits

    refused = answer(llm, forbid_third, **form)
    assert refused.error == "the largest logit is -inf; it must be finite"
    assert refused.outputs[0].token_ids == plain.token_ids[:2]


def test_a_configuration_whose_function_is_not_there_builds_no_engine():
    config = config_from_dict(
        {"model": {"weights": "random", "name": "tiny"}, "sampling": {"logits_processors": [f"{HERE}:nothing"]}}
    )
    with pytest.raises(ConfigError, match=f"sampling.logits_processors: {HERE}:nothing cannot be imported"):
        LLM(config)


def test_what_is_not_found_refuses_the_request(llm):
    with pytest.raises(RequestError, match="not_there:f cannot be imported"):
        answer(llm, "not_there:f")
