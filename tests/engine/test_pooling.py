"""Embeddings beside answers, over the device of paged_oracle: its hidden states are digests of the context."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.requests.pooling import POOLINGS, PooledStates
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor
from mindspore_paged.engine.scheduling.policies import POLICIES, policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import IntegrityError, RequestError, StepError
from tests.engine.paged_oracle import HIDDEN, VOCAB, expected_tokens, hidden_state, make_engine, run_to_end

ONE = SamplingParams(max_tokens=1)


def expected_embedding(prompt, pooling) -> np.ndarray:
    states = [hidden_state(prompt[:end]) for end in range(1, len(prompt) + 1)]
    pooled = np.mean(states, axis=0, dtype=np.float64) if pooling == "mean" else states[-1].astype(np.float64)
    return pooled / np.linalg.norm(pooled)


def submit(engine, prompt, pooling, **options) -> str:
    return engine.add_request(engine.make_request(prompt, ONE, pooling=pooling, **options))


def assert_embeds(answer, prompt, pooling) -> None:
    assert answer.embedding.dtype == np.float32
    assert answer.embedding.shape == (HIDDEN,)
    np.testing.assert_allclose(answer.embedding, expected_embedding(prompt, pooling), rtol=1e-6, atol=1e-7)
    (output,) = answer.outputs
    assert (output.text, output.token_ids, output.finish_reason) == ("", [], "stop")


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 30),
    batched=st.integers(4, 40),
    policy=st.sampled_from(POLICIES),
    features=st.sets(st.sampled_from(["tier", "prediction", "window", "no names"])),
)
@settings(max_examples=30, deadline=None)
def test_embeddings_and_answers_beside_each_other_are_what_each_is_alone(seed, num_blocks, batched, policy, features):
    rng = random.Random(seed)
    tier = HostTier(20 * 16) if "tier" in features and "no names" not in features else None
    engine = make_engine(
        num_blocks=num_blocks,
        max_num_seqs=4,
        max_num_batched_tokens=batched,
        enable_prefix_caching="no names" not in features,
        host_tier=tier,
        swap_cost=SwapCost("always"),
        policy=policy_by_name(policy, lambda request: 1),
        predictor=LengthPredictor(min_samples=2) if "prediction" in features else None,
        prefill_window=PrefillWindow(batched, 4, 6) if "window" in features and batched >= 8 else None,
    )
    shared = [rng.randrange(VOCAB) for _ in range(12)]
    requests, answers = {}, {}
    for _ in range(14):
        prompt = (shared if rng.random() < 0.5 else []) + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
        pooling = rng.choice([None, *POOLINGS])
        if pooling is None:
            params = SamplingParams(max_tokens=rng.randint(1, 40 - len(prompt)), n=rng.choice([1, 2]))
            name = engine.add_request(engine.make_request(prompt, params, priority=rng.randint(0, 2)))
        else:
            name = submit(engine, prompt, pooling, priority=rng.randint(0, 2))
        requests[name] = prompt, pooling, None if pooling else params.max_tokens
        if rng.random() < 0.3:
            answers |= {answer.request_id: answer for answer in engine.step().finished}
    answers |= run_to_end(engine).answers
    if tier is not None:
        tier.close()
    for name, (prompt, pooling, max_tokens) in requests.items():
        if pooling is None:
            assert all(o.token_ids == expected_tokens(prompt, max_tokens) for o in answers[name].outputs)
        else:
            assert_embeds(answers[name], prompt, pooling)


def test_the_bits_do_not_depend_on_chunks_neighbours_or_hits():
    prompt = [random.Random(1).randrange(VOCAB) for _ in range(39)]
    found = {pooling: set() for pooling in POOLINGS}
    for batched in (4, 7, 16, 64):
        for neighbours in (0, 3):
            engine = make_engine(max_num_batched_tokens=max(batched, 8) if neighbours else batched, max_num_seqs=4)
            for _ in range(2):
                for number in range(neighbours):
                    engine.add_request(engine.make_request([number] * 9, SamplingParams(max_tokens=9)))
                for pooling in POOLINGS:
                    name = submit(engine, prompt, pooling)
                    found[pooling].add(run_to_end(engine).answers[name].embedding.tobytes())
    assert [len(bits) for bits in found.values()] == [1, 1]


def test_a_mean_computes_every_token_and_last_takes_what_is_there():
    prompt, engine = list(range(20)), make_engine()

    def computed(pooling, salt=None):
        before = engine.metrics.num_computed_tokens
        name = submit(engine, prompt, pooling, cache_salt=salt)
        assert_embeds(run_to_end(engine).answers[name], prompt, pooling)
        return engine.metrics.num_computed_tokens - before

    assert [computed(pooling) for pooling in ("last", "last", "mean", "mean")] == [20, 4, 20, 20]
    assert [computed("last", "another tenant"), computed("last", "another tenant")] == [20, 4]
    # What was computed for embeddings serves answers, too.
    hits = engine.scheduler.num_cached_tokens
    engine.add_request(engine.make_request([*prompt, 5], ONE))
    run_to_end(engine)
    assert engine.scheduler.num_cached_tokens - hits == 20


def test_answers_and_embeddings_take_turns():
    engine = make_engine(max_num_batched_tokens=8, num_blocks=64)
    engine.add_request(engine.make_request([1], SamplingParams(max_tokens=30), "answer"))
    engine.step()
    submit(engine, [2] * 40, "mean")  # five steps
    kinds = ["answer" if any(u.token_ids for u in engine.step().updates) else "embedding" for _ in range(10)]
    assert kinds == ["embedding", "answer"] * 5
    assert run_to_end(engine).answers["answer"].outputs[0].token_ids == expected_tokens([1], 30)


def test_a_prompt_may_fill_the_model_and_not_more():
    engine = make_engine(predictor=LengthPredictor(), contiguous_priority=0)
    prompt = [3] * 40
    name = submit(engine, prompt, "mean")
    assert_embeds(run_to_end(engine).answers[name], prompt, "mean")
    with pytest.raises(RequestError, match="the prompt has 41 tokens; max_model_len 40 is the most"):
        submit(engine, [3] * 41, "last")
    with pytest.raises(RequestError, match="leaves no room for an answer"):
        engine.make_request(prompt, ONE)


@pytest.mark.parametrize("pooling", ["max", "", 3, ["mean"]])
def test_another_pooling_is_refused(pooling):
    with pytest.raises(RequestError, match=r"^pooling is .*; it must be mean or last$"):
        submit(make_engine(), [1], pooling)


def test_an_engine_without_embeddings_says_so():
    with pytest.raises(RequestError, match="gives no embeddings; it does with runtime.embeddings: true"):
        submit(make_engine(embedding_size=None), [1], "mean")


def test_an_abort_in_the_middle_gives_the_pages_back():
    engine = make_engine(max_num_batched_tokens=8)
    name = submit(engine, [1] * 30, "mean")
    engine.step()
    answer = engine.abort(name)
    assert (answer.embedding, answer.outputs[0].finish_reason) == (None, "abort")
    engine.check_integrity()
    assert engine.scheduler.cache.pool.num_used == 0


def test_a_step_that_fails_ends_the_request_at_fault_and_the_others_start_over():
    engine = make_engine(poison=63)
    good, bad = [1, 2, 3] * 4, [63, 5]
    names = [submit(engine, prompt, "mean") for prompt in (good, bad, good)]
    answers = run_to_end(engine).answers
    for name in (names[0], names[2]):
        assert_embeds(answers[name], good, "mean")
    assert (answers[names[1]].error, answers[names[1]].embedding) == ("token 63 is poison", None)


def test_it_is_no_answer_of_the_response_cache_and_no_length_to_learn():
    predictor = LengthPredictor(min_samples=1)
    engine = make_engine(response_cache=ResponseCache(8), predictor=predictor)
    engine.add_request(engine.make_request([1, 2], ONE))
    run_to_end(engine)
    for _ in range(2):
        name = submit(engine, [1, 2], "mean")
        assert_embeds(run_to_end(engine).answers[name], [1, 2], "mean")
    assert engine.metrics.num_response_cache_hits == 0
    assert predictor.predict("prompts of 2 to 2 tokens", 0, 40) == 1  # of the one answer


@pytest.mark.parametrize("state", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_states_without_a_direction_are_an_error(state, pooling):
    pooled = PooledStates(pooling)
    pooled.add(0, np.full((2, 3), state, np.float32))
    with pytest.raises(StepError, match="the pooled hidden states have length"):
        pooled.embedding()


def test_a_mean_that_would_miss_a_token_is_a_fault_of_ours():
    pooled = PooledStates("mean")
    pooled.add(0, np.ones((2, 3), np.float32))
    with pytest.raises(IntegrityError, match="states of token 3 come after those of 2 tokens"):
        pooled.add(3, np.ones((1, 3), np.float32))
