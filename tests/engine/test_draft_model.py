"""A draft model beside the model: answers are those without it, and its pages hold what they are said to hold."""

import random
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.cache.compaction import CompactionTrigger
from mindspore_paged.cache.elasticity import ElasticCapacity
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.scheduling.draft_length import DraftLength
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from tests.engine.draft_oracle import check_draft_pages, make_drafting_engine
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end
from tests.engine.scheduling.test_speculation import (
    MAX_MODEL_LEN,
    PAGE_BYTES,
    WatchedSpeculation,
    answers_of,
    check_names,
    random_requests,
)

FEATURES = ("tier", "elastic", "compaction", "prediction", "no names", "whole prompts", "lengths", "failures")


class RandomLength(DraftLength):
    """Any length, none included, so that the draft model lags behind by any number of tokens."""

    def __init__(self, most, rng):
        super().__init__(most)
        self.rng = rng

    def choose(self, num_sequences, num_tokens):
        return self.rng.choice([0, 0, self.rng.randint(0, self.num_speculative_tokens)])


def checked(engine):
    """The engine, with the draft model's pages checked after each step."""
    step = engine.step

    def step_and_check():
        output = step()
        check_draft_pages(engine)
        return output

    engine.step = step_and_check
    return engine


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 40),
    num_speculative_tokens=st.integers(1, 7),
    quality=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    batched=st.integers(4, 40),
    features=st.sets(st.sampled_from(FEATURES)),
)
@settings(max_examples=30, deadline=None)
def test_output_is_that_without_a_draft_model(seed, num_blocks, num_speculative_tokens, quality, batched, features):
    requests, rng = random_requests(random.Random(seed)), random.Random(seed)
    expected = answers_of(make_engine(eos_token_ids=(3,)), requests)
    with ExitStack() as stack:
        named, whole = "no names" not in features, "whole prompts" in features
        tier = stack.enter_context(HostTier(20 * PAGE_BYTES)) if "tier" in features and named else None
        engine = make_drafting_engine(
            quality,
            num_speculative_tokens,
            RandomLength(num_speculative_tokens, rng) if "lengths" in features else None,
            WatchedSpeculation,
            num_blocks=num_blocks,
            max_num_seqs=4,
            max_num_batched_tokens=MAX_MODEL_LEN if whole else batched,
            eos_token_ids=(3,),
            enable_prefix_caching=named,
            enable_chunked_prefill=not whole,
            host_tier=tier,
            swap_cost=SwapCost("always"),
            capacity=ElasticCapacity(10, num_blocks - 1, patience=2) if "elastic" in features else None,
            trigger=CompactionTrigger(fragmentation=0.01, min_steps=1) if "compaction" in features else None,
            predictor=LengthPredictor(min_samples=2) if "prediction" in features else None,
        )
        if "failures" in features:
            engine.runner.draft.failures = (rng.random() < 0.2 for _ in iter(int, 1))
        assert answers_of(checked(engine), requests) == expected
        engine.runner = engine.runner.runner  # whose pages they are that have names
        check_names(engine, requests, expected)


@given(seed=st.integers(0, 2**32), num_blocks=st.integers(11, 40), batched=st.integers(8, 40), tier=st.booleans())
@settings(max_examples=12, deadline=None)
def test_a_draft_model_equal_to_the_model_is_always_right(seed, num_blocks, batched, tier):
    """Through preemption, forks, shared prefixes and pages of a tier: before it guesses it computes what it lacks."""
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB) for _ in range(12)]
    requests = [
        (
            [*(shared if rng.random() < 0.6 else []), *(rng.randrange(VOCAB) for _ in range(rng.randint(1, 10)))],
            SamplingParams(max_tokens=rng.randint(1, 16), n=rng.choice([1, 1, 3]), temperature=0.05, seed=number),
        )
        for number in range(10)
    ]
    with ExitStack() as stack:
        engine = make_drafting_engine(
            num_blocks=num_blocks,
            max_num_seqs=4,
            max_num_batched_tokens=batched,
            host_tier=stack.enter_context(HostTier(20 * PAGE_BYTES)) if tier else None,
            swap_cost=SwapCost("always"),
        )
        answers_of(checked(engine), requests)
        statistics = engine.get_statistics()
    assert statistics["num_accepted_tokens"] == statistics["num_draft_tokens"]


@pytest.mark.parametrize(("num_speculative_tokens", "steps"), [(1, 1 + 10), (3, 1 + 5), (4, 1 + 4)])
def test_right_drafts_come_in_as_few_steps_as_there_can_be(num_speculative_tokens, steps):
    engine = make_drafting_engine(num_speculative_tokens=num_speculative_tokens)
    answers = answers_of(engine, [([1, 2, 3], SamplingParams(max_tokens=21))])
    assert answers["request 0", 0].token_ids == expected_tokens([1, 2, 3], 21)
    statistics = engine.get_statistics()
    assert (statistics["num_steps"], statistics["num_drafts"]) == (steps, steps - 1)
    assert statistics["num_accepted_tokens"] == statistics["num_draft_tokens"] == 21 - steps
    by_position = [statistics[f"num_accepted_tokens_pos_{place}"] for place in range(num_speculative_tokens)]
    assert sum(by_position) == 21 - steps
    assert by_position == [statistics[f"num_draft_tokens_pos_{place}"] for place in range(num_speculative_tokens)]


def test_a_batch_takes_a_graph_run_a_draft_and_not_one_a_sequence():
    engine = make_drafting_engine(num_speculative_tokens=3, max_num_batched_tokens=32)
    requests = [([number, 2, 3], SamplingParams(max_tokens=9)) for number in range(6)]
    answers_of(engine, requests)
    # A step of prompts, which the draft model follows; then two of four tokens for each sequence, of three drafts each.
    assert engine.get_statistics()["num_steps"] == 1 + 2
    assert [step.num_tokens for step in engine.runner.draft.steps] == [18, 6, 6, 6, 12, 6, 6]


def test_acceptance_by_position_is_what_the_draft_model_got_right():
    engine = make_drafting_engine(quality=0.6, num_speculative_tokens=4, max_model_len=200, num_blocks=300)
    requests = [([number], SamplingParams(max_tokens=150)) for number in range(8)]
    answers_of(engine, requests)
    statistics = engine.get_statistics()
    drafted = [statistics[f"num_draft_tokens_pos_{place}"] for place in range(4)]
    accepted = [statistics[f"num_accepted_tokens_pos_{place}"] for place in range(4)]
    assert sum(drafted) == statistics["num_draft_tokens"]
    assert sum(accepted) == statistics["num_accepted_tokens"]
    for place in range(4):
        assert accepted[place] / drafted[place] == pytest.approx(0.6 ** (place + 1), abs=0.1)


def test_a_prefix_that_comes_from_elsewhere_is_computed_by_the_draft_model_first():
    prompt, params = [*range(16), 1, 2, 3], SamplingParams(max_tokens=12)
    engine = make_drafting_engine(max_num_batched_tokens=8)
    cache = engine.scheduler.cache
    answers_of(engine, [(prompt, params)])
    blocks = cache.pool.match_prefix(engine.make_request(prompt, params).sequences[0].extend_hashes(4))
    engine.runner.write_pages(blocks, engine.runner.read_pages(blocks))  # as an import does
    engine.runner.draft.pages[blocks] = 9
    first = engine.get_statistics()
    answers = answers_of(checked(engine), [(prompt, params)])
    assert answers["request 0", 0].token_ids == expected_tokens(prompt, 12)
    second = engine.get_statistics()
    assert second["num_draft_tokens"] > first["num_draft_tokens"]
    assert second["num_accepted_tokens"] == second["num_draft_tokens"]


@pytest.mark.parametrize("own_vocab_size", [VOCAB - 8, VOCAB, VOCAB + 8])
def test_a_vocabulary_of_another_length_costs_nothing_but_drafts(own_vocab_size):
    requests = [
        ([VOCAB - 1, number], SamplingParams(max_tokens=30, temperature=0.3, seed=number)) for number in range(4)
    ]
    expected = answers_of(make_engine(), requests)
    engine = make_drafting_engine(own_vocab_size=own_vocab_size)
    assert answers_of(engine, requests) == expected
    assert engine.get_statistics()["num_accepted_tokens"] > 0


def test_a_length_of_none_runs_no_draft_model_and_a_later_one_catches_up():
    class Length(DraftLength):
        now = 0

        def choose(self, num_sequences, num_tokens):
            return self.now

    length = Length(3)
    engine = checked(make_drafting_engine(draft_length=length))
    engine.add_request(engine.make_request([1, 2, 3], SamplingParams(max_tokens=30), "request 0"))
    for _ in range(6):
        engine.step()
    assert engine.runner.draft.steps == []
    length.now = 3
    answer = run_to_end(engine).answers["request 0"]
    assert answer.outputs[0].token_ids == expected_tokens([1, 2, 3], 30)
    assert engine.runner.draft.steps[0].num_tokens == 3 + 6
    statistics = engine.get_statistics()
    assert statistics["num_accepted_tokens"] == statistics["num_draft_tokens"] > 0


def test_embeddings_pass_the_draft_model_by():
    engine = make_drafting_engine()
    engine.add_request(engine.make_request([1, 2, 3], SamplingParams(), "embedding", pooling="mean"))
    engine.add_request(engine.make_request([1, 2, 3], SamplingParams(max_tokens=9), "text"))
    answers = run_to_end(engine).answers
    assert answers["text"].outputs[0].token_ids == expected_tokens([1, 2, 3], 9)
    assert engine.get_statistics()["num_accepted_tokens"] == 9 - 3
