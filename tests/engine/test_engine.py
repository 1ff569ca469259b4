"""The engine over a device that notices every mistake in paging (see paged_oracle)."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.errors import IntegrityError, RequestError
from mindspore_paged.step_inputs import StepInputs
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end


def submit(engine, prompt, max_tokens=8, **params) -> str:
    return engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=max_tokens, **params)))


def random_prompt(rng, longest=30) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 32])
def test_a_prompt_of_any_length_is_answered_in_chunks_and_across_block_bounds(length):
    engine = make_engine()
    prompt = list(range(length))
    request_id = submit(engine, prompt)
    answer = run_to_end(engine).answers[request_id]
    assert answer.outputs[0].token_ids == expected_tokens(prompt, 8)
    assert answer.outputs[0].finish_reason == "length"


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 40),
    batched=st.integers(4, 20),
    prefix_caching=st.booleans(),
    chunked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_answers_do_not_depend_on_pool_batch_chunks_or_prefix_cache(seed, num_blocks, batched, prefix_caching, chunked):
    rng = random.Random(seed)
    engine = make_engine(
        num_blocks=num_blocks,
        max_num_seqs=4,
        max_num_batched_tokens=batched if chunked else 40,
        enable_prefix_caching=prefix_caching,
        enable_chunked_prefill=chunked,
    )
    shared = random_prompt(rng, 12)
    prompts = [(shared if rng.random() < 0.5 else []) + random_prompt(rng, 20) for _ in range(10)]
    lengths = [rng.randint(1, 40 - len(prompt)) for prompt in prompts]
    ids = [submit(engine, prompt, length) for prompt, length in zip(prompts, lengths)]
    answers = run_to_end(engine).answers
    for request_id, prompt, length in zip(ids, prompts, lengths):
        assert answers[request_id].outputs[0].token_ids == expected_tokens(prompt, length)


def test_a_small_pool_preempts_and_every_sequence_still_ends():
    engine = make_engine(num_blocks=12, max_num_seqs=6)
    prompts = [[seed] * 9 for seed in range(6)]
    ids = [submit(engine, prompt, 25) for prompt in prompts]
    answers = run_to_end(engine).answers
    assert engine.scheduler.num_preemptions > 0
    for request_id, prompt in zip(ids, prompts):
        assert answers[request_id].outputs[0].token_ids == expected_tokens(prompt, 25)


def test_a_thousand_random_requests_with_aborts_leave_every_block_free():
    rng = random.Random(7)
    engine = make_engine(num_blocks=24, max_num_seqs=5)
    under_way, finished = {}, 0
    submitted = 0
    while submitted < 1000 or under_way:
        if submitted < 1000 and rng.random() < 0.7:
            prompt, length = random_prompt(rng, 25), rng.randint(1, 14)
            under_way[submit(engine, prompt, length, n=rng.choice([1, 1, 1, 3]))] = (prompt, length)
            submitted += 1
        if under_way and rng.random() < 0.15:
            request_id = rng.choice(sorted(under_way))
            prompt, length = under_way.pop(request_id)
            aborted = engine.abort(request_id)
            for output in aborted.outputs:
                assert output.token_ids == expected_tokens(prompt, length)[: len(output.token_ids)]
        for answer in engine.step().finished:
            prompt, length = under_way.pop(answer.request_id)
            assert all(output.token_ids == expected_tokens(prompt, length) for output in answer.outputs)
            finished += 1
        engine.check_integrity()
    pool = engine.scheduler.cache.pool
    assert finished > 500
    assert pool.num_used == 0
    assert pool.num_free + pool.num_cached == pool.num_blocks - 1


def test_a_prompt_that_is_wholly_cached_still_computes_its_last_token():
    engine = make_engine()
    prompt = list(range(16))  # exactly four blocks
    first = submit(engine, prompt)
    assert run_to_end(engine).answers[first].outputs[0].token_ids == expected_tokens(prompt, 8)
    engine.runner.steps.clear()
    second = submit(engine, prompt)
    assert run_to_end(engine).answers[second].outputs[0].token_ids == expected_tokens(prompt, 8)
    assert engine.runner.steps[0].positions.tolist() == [12, 13, 14, 15]
    assert engine.scheduler.prefix_cache_hit_rate == pytest.approx(12 / 32)


def test_without_prefix_caching_nothing_is_reused():
    engine = make_engine(enable_prefix_caching=False)
    for _ in range(2):
        submit(engine, list(range(16)))
        run_to_end(engine)
    assert engine.scheduler.prefix_cache_hit_rate == 0
    assert engine.scheduler.cache.pool.num_cached == 0


def test_decoding_sequences_go_on_while_a_long_prompt_is_prefilled():
    engine = make_engine(max_num_batched_tokens=8)
    short = submit(engine, [1], 20)
    engine.step()
    submit(engine, list(range(30)), 2)
    for _ in range(4):
        tokens = [update.token_ids for update in engine.step().updates if update.request_id == short]
        assert len(tokens) == 1


def test_siblings_share_the_prompt_and_part_by_copy_on_write():
    engine = make_engine()
    prompt = list(range(10))  # two and a half blocks
    request_id = submit(engine, prompt, 6, n=3)
    engine.step()
    assert engine.scheduler.cache.pool.num_used == 3  # not 9
    answer = run_to_end(engine).answers[request_id]
    assert [output.index for output in answer.outputs] == [0, 1, 2]
    assert all(output.token_ids == expected_tokens(prompt, 6) for output in answer.outputs)
    assert sum(step.num_tokens for step in engine.runner.steps) == 10 + 3 * 5


def test_more_siblings_than_rows_wait_for_their_turn():
    engine = make_engine(max_num_seqs=2)
    request_id = submit(engine, [5, 6, 7], 4, n=5)
    answer = run_to_end(engine).answers[request_id]
    assert all(output.token_ids == expected_tokens([5, 6, 7], 4) for output in answer.outputs)


def test_sampled_siblings_differ_and_a_seed_repeats_them_under_preemption():
    def texts(num_blocks):
        engine = make_engine(num_blocks=num_blocks)
        request_id = submit(engine, [1, 2, 3], 12, n=4, temperature=1.0, seed=11)
        answer = run_to_end(engine).answers[request_id]
        return [output.token_ids for output in answer.outputs], engine.scheduler.num_preemptions

    roomy, calm = texts(64)
    cramped, preemptions = texts(12)
    assert calm == 0
    assert preemptions > 0
    assert roomy == cramped
    assert len({tuple(tokens) for tokens in roomy}) == 4


def test_a_request_that_breaks_its_step_ends_alone_and_the_others_go_on():
    poison = 63
    engine = make_engine(poison=poison)
    good = [[seed, 1, 2, 3, 4] for seed in range(4)]
    ids = [submit(engine, prompt, 3) for prompt in good[:2]]
    engine.step()
    bad = submit(engine, [9] * 20 + [poison], 3)  # only its second chunk fails
    ids += [submit(engine, prompt, 3) for prompt in good[2:]]
    result = run_to_end(engine)
    assert "poison" in result.answers[bad].error
    assert result.answers[bad].outputs[0].finish_reason == "error"
    for request_id, prompt in zip(ids, good):
        assert result.answers[request_id].outputs[0].token_ids == expected_tokens(prompt, 3)
    assert engine.get_statistics()["num_requests_failed"] == 1


def test_a_row_of_bad_logits_ends_only_its_request():
    engine = make_engine()
    run = engine.runner.run

    def run_with_nan(inputs: StepInputs):
        logits = run(inputs)
        logits[[inputs.input_ids[index] == 33 for index in inputs.logit_indices]] = np.nan
        return logits

    engine.runner.run = run_with_nan
    bad, good = submit(engine, [33], 3, n=2), submit(engine, [34], 3)
    answers = run_to_end(engine).answers
    assert "finite" in answers[bad].error
    assert [output.finish_reason for output in answers[bad].outputs] == ["error", "error"]
    assert answers[good].outputs[0].token_ids == expected_tokens([34], 3)


def test_an_interrupt_in_a_step_loses_nothing():
    engine = make_engine()
    run, calls = engine.runner.run, []

    def interrupted_once(inputs):
        calls.append(inputs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(inputs)

    engine.runner.run = interrupted_once
    request_id = submit(engine, [1, 2, 3], 6)
    engine.step()
    engine.step()
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.check_integrity()
    assert run_to_end(engine).answers[request_id].outputs[0].token_ids == expected_tokens([1, 2, 3], 6)


def test_eos_and_stop_tokens_end_a_sequence_and_free_its_pages_at_once():
    prompt = [1, 2, 3]
    tokens = expected_tokens(prompt, 8)
    engine = make_engine(eos_token_ids=(tokens[4],))
    stopped, ignoring = submit(engine, prompt, 8), submit(engine, prompt, 8, ignore_eos=True)
    by_stop_token = submit(engine, prompt, 8, stop_token_ids=(tokens[2],))
    answers = run_to_end(engine).answers
    assert answers[stopped].outputs[0].token_ids == tokens[: tokens.index(tokens[4]) + 1]
    assert answers[stopped].outputs[0].finish_reason == "stop"
    assert answers[ignoring].outputs[0].token_ids == tokens
    assert answers[by_stop_token].outputs[0].token_ids == tokens[: tokens.index(tokens[2]) + 1]


def test_a_sequence_ends_at_max_model_len():
    engine = make_engine(max_model_len=20)
    request_id = submit(engine, list(range(15)), None)
    output = run_to_end(engine).answers[request_id].outputs[0]
    assert len(output.token_ids) == 5
    assert output.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([VOCAB], {}, "prompt token 64 is no token of this model; allowed: 0..63"),
        ([-1], {}, "prompt token -1"),
        (["a"], {}, "whole numbers"),
        ([True], {}, "whole numbers"),
        ([1] * 40, {}, "40 tokens; max_model_len 40"),
        ("text", {}, "no tokenizer"),
        ([1], {"stop": "x"}, "need a tokenizer"),
    ],
)
def test_a_request_that_cannot_run_is_refused_at_once(prompt, params, message):
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        submit(engine, prompt, **params)
    assert not engine.has_unfinished


def test_a_request_id_in_use_is_refused():
    engine = make_engine()
    engine.add_request(engine.make_request([1], SamplingParams(), "mine"))
    with pytest.raises(RequestError, match="'mine' is in use"):
        engine.add_request(engine.make_request([2], SamplingParams(), "mine"))


def test_a_leak_is_found_when_the_engine_is_idle():
    engine = make_engine()
    engine.scheduler.cache.pool.allocate(1)
    with pytest.raises(IntegrityError):
        engine.check_integrity()


def test_a_sequence_that_ended_without_giving_its_pages_back_is_named():
    engine = make_engine()
    request_id = submit(engine, [1, 2, 3, 4, 5], 3)
    engine.step()
    engine.scheduler.running.clear()
    with pytest.raises(IntegrityError, match=f"{request_id} does not run, but its row . still holds 2 blocks: a leak"):
        engine.check_integrity()


def test_statistics_count_what_happened():
    engine = make_engine(block_size=4)
    submit(engine, [1, 2, 3, 4, 5, 6], 3)
    run_to_end(engine)
    statistics = engine.get_statistics()
    assert statistics["num_output_tokens"] == 3
    assert statistics["num_computed_tokens"] == 8
    assert statistics["num_steps"] == 3
    # Two blocks of four slots hold 6, 7 and 8 tokens in the three steps.
    assert statistics["block_utilization"] == pytest.approx(21 / 24)
    assert statistics["pool_utilization"] == pytest.approx(2 / 63)
