"""Greedy output of a real model does not depend on how it is paged, batched or scheduled; unused pages hold NaN."""

import random

import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm

RNG = random.Random(5)
SHARED = [RNG.randrange(256) for _ in range(40)]
PROMPTS = [
    [1],
    SHARED[:16],
    SHARED[:32],  # exactly two blocks
    [*SHARED, 7, 8],
    [*SHARED, 9],
    [RNG.randrange(256) for _ in range(75)],
    [RNG.randrange(256) for _ in range(17)],
]
GREEDY = SamplingParams(max_tokens=24)
VARIANTS = {
    "one bucket": {"scheduler": {"token_buckets": [64], "max_num_batched_tokens": 64}},
    "chunks of a block": {"scheduler": {"max_num_batched_tokens": 16, "max_num_seqs": 4}},
    "chunks of an odd size": {"scheduler": {"max_num_batched_tokens": 7, "max_num_seqs": 2}},
    "whole prompts": {"scheduler": {"max_num_batched_tokens": 128, "enable_chunked_prefill": False}},
    "one at a time": {"scheduler": {"max_num_batched_tokens": 8, "max_num_seqs": 1}},
    "larger blocks": {"cache": {"block_size": 48}},
    "no prefix cache": {"cache": {"enable_prefix_caching": False}},
    "preemption": {"cache": {"num_blocks": 9}, "scheduler": {"max_num_batched_tokens": 16}},
}


def tokens_of(outputs) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def make(cache=None, scheduler=None):
    return make_llm(
        cache={"num_blocks": 64} | (cache or {}),
        scheduler={"max_num_batched_tokens": 32, "max_num_seqs": 8, "max_model_len": 128} | (scheduler or {}),
    )


@pytest.fixture(scope="module")
def llm():
    return make()


@pytest.fixture(scope="module")
def expected(llm):
    """Each prompt alone."""
    return [tokens_of(llm.generate(prompt, GREEDY))[0] for prompt in PROMPTS]


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_are_those_of_each_prompt_alone(name, expected):
    llm = make(**VARIANTS[name])
    assert tokens_of(llm.generate(PROMPTS, GREEDY)) == expected
    assert tokens_of(llm.generate(PROMPTS[::-1], GREEDY)) == expected[::-1]  # other neighbours, a warm prefix cache
    statistics = llm.get_statistics()
    assert statistics["compiles_after_warmup"] == 0
    assert (statistics["num_preemptions"] > 0) == (name == "preemption")
    assert (statistics["prefix_cache_hit_rate"] > 0) == (name != "no prefix cache")
    llm.engine.check_integrity()


def test_tokens_do_not_depend_on_where_blocks_lie(llm, expected, monkeypatch):
    monkeypatch.setattr(llm.engine, "debug", False)  # it would find the blocks that are held here
    pool = llm.engine.scheduler.cache.pool
    pool.evict(pool.num_cached)
    for seed in range(3):
        held = pool.allocate(pool.num_free)
        random.Random(seed).shuffle(held)
        pool.release(held[:48])  # the holes that are left between what stays held
        assert pool.free_runs.num_runs > 5
        tokens = tokens_of(llm.generate(PROMPTS, GREEDY))
        pool.release(held[48:])
        assert tokens == expected


def test_a_narrow_table_row_is_filled_to_its_last_slot(expected):
    llm = make(cache={"num_blocks": 9}, scheduler={"max_model_len": 128, "max_num_seqs": 2})
    (output,) = llm.generate([PROMPTS[5]], SamplingParams(max_tokens=None))
    assert len(output.outputs[0].token_ids) == 128 - 75
    assert output.outputs[0].token_ids[:24] == expected[5]


def test_siblings_share_pages_and_part(llm, expected):
    (output,) = llm.generate([PROMPTS[3]], SamplingParams(max_tokens=24, n=3))
    assert [answer.token_ids for answer in output.outputs] == [expected[3]] * 3
    (output,) = llm.generate([PROMPTS[3]], SamplingParams(max_tokens=24, n=3, temperature=1.0, seed=3))
    assert len({tuple(answer.token_ids) for answer in output.outputs}) == 3


def test_seeded_sampling_does_not_depend_on_the_neighbours(llm):
    params = SamplingParams(max_tokens=24, temperature=0.8, top_p=0.9, seed=42)
    alone = tokens_of(llm.generate([PROMPTS[0]], params))[0]
    beside = tokens_of(llm.generate(PROMPTS, params))[0]
    again = tokens_of(llm.generate(PROMPTS[::-1], params))[-1]
    assert alone == beside == again


def test_a_thousand_random_requests_with_aborts_leave_every_page_free():
    rng = random.Random(11)
    llm = make(cache={"num_blocks": 24})
    engine = llm.engine
    under_way: list[str] = []
    submitted = finished = 0
    while submitted < 1000 or under_way:
        while submitted < 1000 and len(under_way) < 12:
            prompt = (SHARED if rng.random() < 0.3 else []) + [rng.randrange(256) for _ in range(rng.randint(1, 40))]
            params = SamplingParams(
                max_tokens=rng.randint(1, 8),
                temperature=rng.choice([0.0, 1.0]),
                top_k=rng.choice([0, 5]),
                n=rng.choice([1, 1, 1, 2]),
            )
            under_way.append(engine.add_request(engine.make_request(prompt, params)))
            submitted += 1
        if under_way and rng.random() < 0.1:
            engine.abort(under_way.pop(rng.randrange(len(under_way))))
        for answer in engine.step().finished:
            assert answer.error is None
            under_way.remove(answer.request_id)
            finished += 1
    engine.check_integrity()
    pool = engine.scheduler.cache.pool
    assert finished > 700
    assert pool.num_used == 0
    assert engine.get_statistics()["compiles_after_warmup"] == 0
