"""Every feature of the pager over a device that notices every mistake in paging (see paged_oracle)."""

import random
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.cache.compaction import CompactionTrigger
from mindspore_paged.cache.elasticity import ElasticCapacity
from mindspore_paged.cache.event_log import PoolEventLog, read_event_log
from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.cache.page_format import PageFormat
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor, class_of, output_limit
from mindspore_paged.engine.scheduling.policies import POLICIES, policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import ConfigError, RequestError, StepError
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end

PAGE_BYTES = 4 * 4  # a block of four int32 tokens
PAGES = PageFormat("model", np.dtype(np.int32), (4,))


def submit(engine, prompt, max_tokens=8, priority=0, request_class=None, **params) -> str:
    params = SamplingParams(max_tokens=max_tokens, **params)
    return engine.add_request(engine.make_request(prompt, params, priority=priority, request_class=request_class))


def eager_trigger() -> CompactionTrigger:
    return CompactionTrigger(fragmentation=0.01, min_steps=1)


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 30),
    policy=st.sampled_from(POLICIES),
    features=st.sets(st.sampled_from(["tier", "elastic", "compaction", "prediction", "window", "contiguous"])),
    sliding_window=st.sampled_from([0, 0, 1, 5, 16]),
)
@settings(max_examples=60, deadline=None)
def test_any_mixture_of_features_gives_the_same_answers(seed, num_blocks, policy, features, sliding_window):
    rng = random.Random(seed)
    predictor = LengthPredictor(min_samples=2) if "prediction" in features else None

    def expected_output(request):
        limit = output_limit(request, 40)
        return predictor.predict(class_of(request), 0, limit) if predictor else limit

    with ExitStack() as stack:
        tier = stack.enter_context(HostTier(20 * PAGE_BYTES)) if "tier" in features else None
        engine = make_engine(
            num_blocks=num_blocks,
            max_num_seqs=4,
            host_tier=tier,
            swap_cost=SwapCost("always"),
            capacity=ElasticCapacity(10, num_blocks - 1, patience=2) if "elastic" in features else None,
            trigger=eager_trigger() if "compaction" in features else None,
            policy=policy_by_name(policy, expected_output),
            predictor=predictor,
            prefill_window=PrefillWindow(16, 4, 12) if "window" in features else None,
            contiguous_priority=1 if "contiguous" in features else None,
            window=sliding_window,
        )
        shared = [rng.randrange(VOCAB) for _ in range(12)]
        prompts = [
            (shared if rng.random() < 0.5 else []) + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
            for _ in range(12)
        ]
        lengths = [rng.randint(1, 40 - len(prompt)) for prompt in prompts]
        ids = [
            submit(engine, prompt, length, priority=rng.randint(0, 2), n=rng.choice([1, 1, 2]))
            for prompt, length in zip(prompts, lengths)
        ]
        answers = run_to_end(engine).answers
    for request_id, prompt, length in zip(ids, prompts, lengths):
        expected = expected_tokens(prompt, length, sliding_window)
        assert all(output.token_ids == expected for output in answers[request_id].outputs)


def run_cramped(engine) -> list:
    """Six requests in a pool for one: each but the first is preempted; returns the answers that are wrong."""
    prompts = [[seed, *range(8)] for seed in range(6)]
    ids = [submit(engine, prompt, 28) for prompt in prompts]
    answers = run_to_end(engine).answers
    assert engine.scheduler.num_preemptions >= 5
    return [p for i, p in zip(ids, prompts) if answers[i].outputs[0].token_ids != expected_tokens(p, 28)]


def test_preempted_sequences_come_back_from_the_host_tier():
    with HostTier(1000 * PAGE_BYTES) as tier:
        swapping = make_engine(num_blocks=13, max_num_seqs=6, host_tier=tier, swap_cost=SwapCost("always"))
        assert run_cramped(swapping) == []
        recomputing = make_engine(num_blocks=13, max_num_seqs=6)
        assert run_cramped(recomputing) == []
        assert swapping.get_statistics()["num_pages_loaded"] > 10
        computed = [e.get_statistics()["num_computed_tokens"] for e in (swapping, recomputing)]
        assert computed[0] < computed[1]


def test_a_full_host_tier_loses_pages_and_no_answer():
    with HostTier(3 * PAGE_BYTES) as tier:
        engine = make_engine(num_blocks=13, max_num_seqs=6, host_tier=tier, swap_cost=SwapCost("always"))
        assert run_cramped(engine) == []
        tier.wait_until_idle()
        assert tier.statistics()["pages"] <= 3


@pytest.mark.parametrize("damaged", [False, True])
def test_page_files_serve_the_next_run_and_damaged_ones_are_computed_again(tmp_path, damaged):
    prompt = list(range(20))
    with HostTier(16 * PAGE_BYTES, FileTier(tmp_path, 10**6, PAGES)) as tier:
        engine = make_engine(num_blocks=11, host_tier=tier, swap_cost=SwapCost("always"))
        for text in (prompt, *([seed] * 36 for seed in range(50, 54))):  # these drive the prompt's pages down to files
            submit(engine, text, 2)
            while engine.has_unfinished:
                engine.step()
                tier.wait_until_idle()
        assert tier.statistics()["dropped"] == 0
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert files
    for file in files if damaged else ():
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    with HostTier(16 * PAGE_BYTES, FileTier(tmp_path, 10**6, PAGES)) as tier:
        engine = make_engine(num_blocks=11, host_tier=tier, swap_cost=SwapCost("always"))
        again = submit(engine, prompt, 8)
        assert run_to_end(engine).answers[again].outputs[0].token_ids == expected_tokens(prompt, 8)
        assert (engine.get_statistics()["num_pages_loaded"] > 0) == (not damaged)
        assert (tier.statistics()["below"]["damaged"] > 0) == damaged


def test_an_abort_between_a_swap_and_its_step_leaves_nothing_behind():
    with HostTier(1000 * PAGE_BYTES) as tier:
        engine = make_engine(num_blocks=11, host_tier=tier, swap_cost=SwapCost("always"))
        for text in ([1] * 20, [2] * 36):
            submit(engine, text, 2)
            run_to_end(engine)
        request_id = submit(engine, [1] * 20, 5)
        engine.mover.before_schedule()
        plan = engine.scheduler.schedule()
        assert plan.chunks[0].start > 0, "nothing was to be loaded"
        engine.abort(request_id)
        engine.mover.transfer()
        engine.check_integrity()
        other = submit(engine, [3] * 20, 5)
        assert run_to_end(engine).answers[other].outputs[0].token_ids == expected_tokens([3] * 20, 5)


@pytest.mark.parametrize("operation", ["copy_blocks", "read_pages", "write_pages"])
def test_a_failing_transfer_harms_no_other_request(operation):
    with HostTier(1000 * PAGE_BYTES) as tier:
        engine = make_engine(
            num_blocks=13, max_num_seqs=6, host_tier=tier, swap_cost=SwapCost("always"), trigger=eager_trigger()
        )
        working, calls = getattr(engine.runner, operation), []

        def failing_now_and_then(*arguments):
            calls.append(arguments)
            if len(calls) % 3 == 1:
                raise StepError(f"{operation} does not work")
            return working(*arguments)

        setattr(engine.runner, operation, failing_now_and_then)
        prompts = [[seed, *range(8)] for seed in range(6)]
        ids = [submit(engine, prompt, 28, n=1 + seed % 2) for seed, prompt in enumerate(prompts)]
        answers = run_to_end(engine).answers
        assert len(calls) > 2
        for request_id, prompt in zip(ids, prompts):
            for output in answers[request_id].outputs:
                if output.finish_reason == "error":
                    assert answers[request_id].error == f"{operation} does not work"
                else:
                    assert output.token_ids == expected_tokens(prompt, 28)
        assert sum(answers[request_id].error is None for request_id in ids) >= 4


def test_a_high_priority_gets_one_run_and_compaction_makes_it():
    engine = make_engine(
        num_blocks=31,
        max_num_batched_tokens=128,
        contiguous_priority=5,
        trigger=CompactionTrigger(fragmentation=2.0),  # never by itself
    )
    ids = [submit(engine, [seed] * 15, 2 + 10 * (seed % 2)) for seed in range(7)]
    for _ in range(3):
        engine.step()  # the even ones have ended, their pages lie cached between those of the odd ones
    pool = engine.scheduler.cache.pool
    assert pool.free_runs.longest < 10 <= pool.num_available
    denied = submit(engine, [40] * 3, 37, priority=5)
    engine.step()  # it finds no run, which makes the next step compact
    engine.abort(denied)
    granted = submit(engine, [41] * 3, 37, priority=5)
    engine.step()
    (row,) = [s.row for s in engine.scheduler.running if s.request.request_id == granted]
    blocks = engine.scheduler.cache.table.blocks(row)
    assert blocks == list(range(blocks[0], blocks[0] + 10))
    assert engine.mover.num_compactions == 1
    answers = run_to_end(engine).answers
    assert answers[granted].outputs[0].token_ids == expected_tokens([41] * 3, 37)
    for seed in (1, 3, 5):
        assert answers[ids[seed]].outputs[0].token_ids == expected_tokens([seed] * 15, 12)


def test_capacity_follows_the_load():
    engine = make_engine(num_blocks=101, capacity=ElasticCapacity(12, 100, patience=4))
    sizes = []
    for load in (1, 8):
        for seed in range(load):
            submit(engine, [seed] * 4, 36)
        while engine.has_unfinished:
            engine.step()
            sizes.append(engine.get_statistics()["num_usable_blocks"])
            engine.check_integrity()
    smallest = sizes.index(min(sizes))
    assert sizes[0] == 100
    assert sizes[smallest] < 40
    assert max(sizes[smallest:]) > 80


def test_a_known_answer_is_given_at_once():
    engine = make_engine(response_cache=ResponseCache(2))
    first = submit(engine, [1, 2, 3], 8, n=2)
    answer = run_to_end(engine).answers[first]
    steps = engine.metrics.num_steps
    second = submit(engine, [1, 2, 3], 8, n=2)
    result = run_to_end(engine)
    assert result.answers[second].outputs == answer.outputs
    assert [update.token_ids for update in result.updates] == [output.token_ids for output in answer.outputs]
    assert engine.metrics.num_steps == steps
    assert engine.get_statistics()["num_response_cache_hits"] == 1
    submit(engine, [1, 2, 3], 7, n=2)
    run_to_end(engine)
    assert engine.metrics.num_steps > steps


def test_the_event_log_tells_who_held_what(tmp_path):
    path = tmp_path / "events.jsonl"
    with PoolEventLog(path, 64, 4) as log:
        engine = make_engine(event_log=log)
        submit(engine, list(range(10)), 4)
        submit(engine, list(range(10)), 4)
        run_to_end(engine)
    events = read_event_log(path)
    assert len(events.steps) == engine.metrics.num_steps
    owners = events.owners_at(events.steps)
    assert {1, 2} <= set(owners.reshape(-1).tolist())
    assert events.counts["running"].max() == 2


def test_priorities_are_bounded():
    with pytest.raises(RequestError, match="priority is 101; it must be a whole number from -100 to 100"):
        submit(make_engine(), [1], priority=101)


def test_a_window_for_prompts_that_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="enable_chunked_prefill"):
        make_engine(prefill_window=PrefillWindow(16, 4, 12), enable_chunked_prefill=False)
