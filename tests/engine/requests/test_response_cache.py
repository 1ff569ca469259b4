"""The response cache against a list in order of use."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.engine.requests.outputs import CompletionOutput
from mindspore_paged.engine.requests.response_cache import ResponseCache, is_deterministic
from mindspore_paged.errors import ConfigError, IntegrityError
from mindspore_paged.sampling.sampler import SampledToken
from mindspore_paged.sampling.sampling_params import SamplingParams
from tests.engine.paged_oracle import make_engine, run_to_end

GREEDY = SamplingParams()


def completion(index=0, token_ids=(5, 6), finish_reason="stop", logprobs=None) -> CompletionOutput:
    return CompletionOutput(index, "text", list(token_ids), finish_reason, logprobs)


def test_an_identical_request_gets_everything_back():
    logprobs = [SampledToken(5, -0.5, ((5, -0.5), (7, -1.5))), SampledToken(6, -0.1, ((6, -0.1),))]
    params = SamplingParams(temperature=0.7, seed=3, n=2, logprobs=2, stop="!")
    answer = [completion(0, logprobs=logprobs), completion(1, [9], "length", logprobs[:1])]
    cache = ResponseCache(4)
    cache.put([1, 2, 3], params, answer)
    assert cache.get((1, 2, 3), replace(params)) == answer


@pytest.mark.parametrize(
    ("prompt", "changes"),
    [
        ([1, 2], {}),
        ([1, 2, 3, 4], {}),
        ([3, 2, 1], {}),
        ([1, 2, 3], {"max_tokens": 9}),
        ([1, 2, 3], {"seed": 1}),
        ([1, 2, 3], {"stop": "x"}),
        ([1, 2, 3], {"stop_token_ids": [4]}),
        ([1, 2, 3], {"ignore_eos": True}),
        ([1, 2, 3], {"logprobs": 0}),
        ([1, 2, 3], {"n": 2}),
        ([1, 2, 3], {"repetition_penalty": 1.1}),
        ([1, 2, 3], {"logit_bias": {5: 1}}),
    ],
)
def test_any_difference_is_a_miss(prompt, changes):
    cache = ResponseCache(4)
    cache.put([1, 2, 3], GREEDY, [completion()])
    assert cache.get(prompt, replace(GREEDY, **changes)) is None


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (GREEDY, True),
        (SamplingParams(temperature=0.5, seed=0), True),
        (SamplingParams(temperature=0.5), False),
        (SamplingParams(temperature=0.0, top_p=0.5), True),
    ],
)
def test_only_requests_that_repeat_themselves_are_kept(params, kept):
    cache = ResponseCache(4)
    cache.put([1], params, [completion()])
    assert is_deterministic(params) is kept
    assert (cache.get([1], params) is not None) is kept


@pytest.mark.parametrize("reason", ["abort", "error", None])
@pytest.mark.parametrize("broken", [0, 1])
def test_an_answer_that_is_not_whole_is_not_kept(reason, broken):
    params = SamplingParams(n=2)
    answer = [completion(index, finish_reason=reason if index == broken else "stop") for index in range(2)]
    cache = ResponseCache(4)
    cache.put([1], params, answer)
    assert len(cache) == 0
    assert cache.get([1], params) is None


def test_what_users_do_to_their_answers_reaches_nobody_else():
    given_in = completion(logprobs=[SampledToken(5, -1.0, ())])
    cache = ResponseCache(1)
    cache.put([1], GREEDY, [given_in])
    first = cache.get([1], GREEDY)
    for answer in ([given_in], first):
        answer[0].token_ids.append(99)
        answer[0].logprobs.clear()
        answer.clear()
    assert cache.get([1], GREEDY) == [completion(logprobs=[SampledToken(5, -1.0, ())])]


def test_a_prompt_list_that_changes_later_does_not_change_the_key():
    prompt, cache = [1, 2], ResponseCache(1)
    cache.put(prompt, GREEDY, [completion()])
    prompt.append(3)
    assert cache.get([1, 2], GREEDY) == [completion()]
    assert cache.get(prompt, GREEDY) is None


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_that_holds_nothing_is_refused(capacity):
    with pytest.raises(ConfigError, match=f"a response cache of {capacity} entries"):
        ResponseCache(capacity)


@pytest.mark.parametrize("completions", [[], [completion()] * 2])
def test_a_wrong_number_of_completions_is_refused(completions):
    with pytest.raises(IntegrityError, match=f"{len(completions)} completions answer a request for 1"):
        ResponseCache(1).put([1], GREEDY, completions)


def test_both_reading_and_writing_an_answer_save_it_from_eviction():
    cache = ResponseCache(3)
    for prompt in ([1], [2], [3]):
        cache.put(prompt, GREEDY, [completion()])
    cache.get([1], GREEDY)
    cache.put([2], GREEDY, [completion(token_ids=[7])])
    cache.put([4], GREEDY, [completion()])
    assert cache.get([3], GREEDY) is None
    cache.put([5], GREEDY, [completion()])
    assert cache.get([1], GREEDY) is None
    assert cache.get([2], GREEDY) == [completion(token_ids=[7])]


requests = st.sampled_from([([0], 0), ([1], 0), ([0, 1], 0), ([1], 1), ([0], None)])
calls = st.lists(
    st.tuples(st.booleans(), requests, st.integers(0, 99), st.sampled_from([False] * 4 + [True])), min_size=20
)


@given(capacity=st.integers(1, 4), calls=calls)
def test_any_order_of_calls_against_a_list_in_order_of_use(capacity, calls):
    cache, model = ResponseCache(capacity), []  # pairs of request and token, the one used last at the end
    for is_put, (prompt, seed), token, aborted in calls:
        params = SamplingParams(temperature=1.0, seed=seed)
        known = [pair for pair in model if pair[0] == (prompt, seed)]
        if is_put:
            cache.put(prompt, params, [completion(0, [token], "abort" if aborted else "length")])
            used = [((prompt, seed), token)] if seed is not None and not aborted else []
        else:
            answer = cache.get(prompt, params)
            assert answer == ([completion(0, [known[0][1]], "length")] if known else None)
            used = known
        if used:
            model = ([pair for pair in model if pair not in known] + used)[-capacity:]
        assert len(cache) == len(model)


def test_a_request_that_is_aborted_before_its_answer_is_handed_over_has_none():
    engine = make_engine(response_cache=ResponseCache(4))
    params = SamplingParams(max_tokens=3)
    for _ in range(2):
        engine.add_request(engine.make_request([1, 2, 3], params, "same"))
        if engine.metrics.num_requests_finished:
            aborted = engine.abort("same")
            assert [(each.text, each.token_ids, each.finish_reason) for each in aborted.outputs] == [("", [], "abort")]
        run_to_end(engine)
    assert engine.metrics.num_response_cache_hits == 0
