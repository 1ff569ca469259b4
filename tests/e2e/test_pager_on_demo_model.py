"""The demo model answers the same with every feature of the pager, in a pool so small that each of them is at work.

The leader runs five copies of the shortest prompt, is ranked first and takes the whole pool in the end: whoever runs
beside it loses its pages. What transformers answered (goldens/smollm2_135m.json) is what must come out all the same.
"""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm, make_llm_over

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2_135m.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in GOLDENS["cases"]}
LEADER, *FOLLOWERS = "capital", "code", "unicode", "numbers", "chat"
COPIES = 5
LENGTHS = {LEADER: 14, "code": 16, "unicode": 16, "numbers": 16, "chat": 16}
PAGE_BYTES = 30 * 2 * 16 * 3 * 64 * 4

pytestmark = pytest.mark.slow


def sections(cache=None, scheduler=None) -> dict:
    """Ten pages: two for each copy of the leader, at its end, or one for each at the start and 9 for the followers."""
    rows = {"max_num_seqs": COPIES + len(FOLLOWERS), "max_model_len": 80}
    steps = {"max_num_batched_tokens": 128, "token_buckets": [1, 9, 32, 128]}
    return {"cache": {"num_blocks": 11} | (cache or {}), "scheduler": rows | steps | (scheduler or {})}


@pytest.fixture(scope="module")
def compiled(demo_model):
    """The model and its graphs, for one LLM after the other; none of them compiles another graph."""
    return make_llm(demo_model, **sections())


@pytest.fixture
def make(compiled):
    llms = []

    def make(cache=None, scheduler=None):
        retire_last()
        llms.append(make_llm_over(compiled, **sections(cache, scheduler)))
        return llms[-1]

    def retire_last():
        # Before the next one: they share one block_table on the device, which holds what the last of them wrote.
        for llm in llms[-1:]:
            llm.engine.check_integrity()
            llm.close()

    yield make
    retire_last()
    assert compiled.engine.runner.num_compiles == 4 + 5, (
        "the buckets; what copies pages, reads and writes one and several"
    )


def run(llm, priorities=None, before_step=lambda: None) -> SimpleNamespace:
    """All answers at once, checked; which requests were preempted how often, and each step's plan."""
    engine, priorities = llm.engine, priorities or {}
    seen = SimpleNamespace(preemptions=Counter(), plans=[])
    give_up, schedule = engine.scheduler.give_up, engine.scheduler.schedule

    def counting_give_up(sequence):
        seen.preemptions[sequence.request.request_id] += 1
        give_up(sequence)

    def recording_schedule():
        seen.plans.append(schedule())
        return seen.plans[-1]

    engine.scheduler.give_up, engine.scheduler.schedule = counting_give_up, recording_schedule
    for name in LENGTHS:
        params = SamplingParams(max_tokens=LENGTHS[name], ignore_eos=True, n=COPIES if name == LEADER else 1)
        token_ids = CASES[name]["prompt_token_ids"]
        engine.add_request(engine.make_request(token_ids, params, name, priorities.get(name, 0)))
    answers = {}
    while engine.has_unfinished:
        before_step()
        answers.update((answer.request_id, answer) for answer in engine.step().finished)
    engine.scheduler.give_up, engine.scheduler.schedule = give_up, schedule
    for name, length in LENGTHS.items():
        expected = CASES[name]["token_ids"][:length]
        assert [output.token_ids for output in answers[name].outputs] == [expected] * len(answers[name].outputs), name
    return seen


def num_found(seen, name) -> int:
    """Tokens of a prompt that the prefix cache held when the first step began."""
    return next(chunk.start for chunk in seen.plans[0].chunks if chunk.sequence.request.request_id == name)


def assert_each_follower_was_preempted(seen) -> None:
    assert all(seen.preemptions[name] for name in FOLLOWERS), seen.preemptions


def test_pages_are_computed_again(make):
    assert_each_follower_was_preempted(run(make()))


def test_pages_come_back_from_host_memory(make):
    llm = make({"host_memory": "64MiB", "swap": "always"})
    assert_each_follower_was_preempted(run(llm))
    assert llm.get_statistics()["num_pages_loaded"] > 0
    llm.engine.mover.host_tier.check_integrity()


def test_pages_come_back_from_files(make, tmp_path):
    tiers = {"host_memory": 3 * PAGE_BYTES, "page_files": str(tmp_path), "swap": "always"}
    llm = make(tiers)
    tier = llm.engine.mover.host_tier
    assert_each_follower_was_preempted(run(llm, before_step=tier.wait_until_idle))
    statistics = tier.statistics()
    assert statistics["spilled"] > 0
    assert statistics["loaded"] > 0
    llm.close()
    successor = make(tiers)  # whose memory is empty: the files alone know the prompts
    run(successor, before_step=successor.engine.mover.host_tier.wait_until_idle)
    assert successor.engine.mover.host_tier.statistics()["loaded"] > 0


def test_pages_are_moved_together(make):
    llm = make({"compaction": True})
    llm.engine.mover.trigger.min_steps, llm.engine.mover.trigger.fragmentation = 1, 0.01
    assert_each_follower_was_preempted(run(llm))
    assert llm.get_statistics()["num_blocks_moved"] > 0


def test_the_usable_part_of_the_pool_shrinks_and_grows(make):
    llm = make({"elastic_min_blocks": 5})
    pool, capacity = llm.engine.scheduler.cache.pool, llm.engine.scheduler.cache.capacity
    capacity.patience = 4
    llm.generate([CASES[LEADER]["prompt"]], SamplingParams(max_tokens=12))
    assert pool.num_usable < 10
    assert_each_follower_was_preempted(run(llm))
    assert llm.get_statistics()["num_usable_blocks"] == 10


def test_priority_decides_who_is_preempted_last(make):
    seen = run(make(scheduler={"policy": "priority"}), {LEADER: 3, "chat": 2, "numbers": 1})
    assert_each_follower_was_preempted(seen)
    assert [s.request.request_id for s in seen.plans[0].sequences][:3] == [LEADER, "chat", "numbers"]


def test_shortest_goes_first(make):
    seen = run(make(scheduler={"policy": "shortest"}))
    assert_each_follower_was_preempted(seen)
    by_work = sorted(LENGTHS, key=lambda name: len(CASES[name]["prompt_token_ids"]) + LENGTHS[name])
    assert [s.request.request_id for s in seen.plans[0].sequences] == by_work


def test_prediction_lets_in_only_what_fits(make):
    """So nothing is preempted but for the leader's copies, of which there is one while the first two come in."""
    seen = run(make(scheduler={"predict_lengths": True}))
    assert set(seen.preemptions) <= {"code", "unicode"}


def test_long_prompts_take_a_share_of_a_step(make):
    steps = {"max_num_batched_tokens": 32, "token_buckets": [1, 9, 32]}
    seen = run(make(scheduler=steps | {"long_prefill_share": 0.25, "long_prompt_tokens": 20}))
    assert {"code", "unicode", "chat"} <= set(seen.preemptions), "the share keeps `numbers` out while the leader runs"
    assert seen.plans[0].num_long_prefill_tokens == 8, "what 5 + 19 tokens of short prompts leave, and a quarter of 32"


def test_a_high_priority_gets_one_run_of_pages(make):
    llm = make({"contiguous_priority": 1})
    table, runs = llm.engine.scheduler.cache.table, []

    def look():
        for sequence in llm.engine.scheduler.running:
            if sequence.request.request_id == "code":
                runs.append(table.blocks(sequence.row))

    assert_each_follower_was_preempted(run(llm, {"code": 1}, before_step=look))
    first, last = runs[0], runs[-1]
    assert first == list(range(first[0], first[0] + 3)), "23 + 16 - 1 tokens, from the first step on"
    assert len(last) == 3


def test_a_preloaded_prefix_is_kept_and_hit(make):
    case = CASES["unicode"]
    llm = make({"preload_prefixes": [case["prompt"]]})
    pool = llm.engine.scheduler.cache.pool
    pinned = pool.pinned_blocks()
    seen = run(llm)
    assert_each_follower_was_preempted(seen)
    assert pool.pinned_blocks() == pinned
    assert len(pinned) == 1
    assert num_found(seen, "unicode") == 16


def test_the_same_prompts_are_answered_without_a_step(make):
    llm = make({"response_cache_entries": 8})
    assert_each_follower_was_preempted(run(llm))
    steps = llm.get_statistics()["num_steps"]
    run(llm)
    assert llm.get_statistics()["num_steps"] == steps
    assert llm.get_statistics()["num_response_cache_hits"] == len(LENGTHS)


def test_a_prefix_of_another_engine_is_hit(make):
    exported = make().export_prefix(CASES["chat"]["prompt_token_ids"])
    llm = make()
    assert llm.import_prefix(exported) == 32
    seen = run(llm)
    assert_each_follower_was_preempted(seen)
    assert num_found(seen, "chat") == 32


def test_large_blocks(demo_model):
    """Chosen by `auto`; one for each sequence, so that the leader's copies alone fill a pool of five."""
    llm = make_llm(demo_model, **sections({"block_size": "auto", "num_blocks": 6}, {"token_buckets": [9, 128]}))
    assert llm.engine.scheduler.cache.block_size == 128
    assert_each_follower_was_preempted(run(llm))
    assert llm.get_statistics()["compiles_after_warmup"] == 0
    llm.engine.check_integrity()
