"""Speculation against the same engine without it: token for token the same, whatever is guessed.

The device is that of paged_oracle, so a draft that is read after it was rejected, or that gets into a page with a name,
changes an answer. Seeded requests draw from the device's near-uniform distribution: equal tokens for any seed are more
than an equal distribution.
"""

import random
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.cache.compaction import CompactionTrigger
from mindspore_paged.cache.elasticity import ElasticCapacity
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor
from mindspore_paged.engine.scheduling.ngram_proposer import NgramProposer
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from tests.engine import paged_oracle
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end

PAGE_BYTES = 4 * 4
BLOCK_SIZE, MAX_MODEL_LEN = 4, 40
FEATURES = ("tier", "elastic", "compaction", "prediction", "window", "contiguous", "no names", "whole prompts")


class Seer:
    """Proposes what a run without speculation wrote, each draft right with probability `quality`."""

    def __init__(self, texts: dict[tuple[str, int], list[int]], quality: float, rng=None):
        self.texts = texts
        self.quality = quality
        self.rng = rng or random.Random(0)

    def propose(self, sequence, count):
        text = self.texts[sequence.request.request_id, sequence.index]
        start = sequence.num_output_tokens
        coming = text[start : start + count]
        return [token if self.rng.random() < self.quality else (token + 1) % VOCAB for token in coming]


class WatchedSpeculation(Speculation):
    """Holds that drafts take nothing from anyone: what it counts must not change while they are added."""

    def add_drafts(self, plan, cache, max_num_tokens, max_model_len, max_num_logits):
        def others():
            pool = cache.pool
            chunks = [chunk[:3] for chunk in plan.chunks]
            return chunks, pool.cached_blocks(), pool.withheld_blocks(), list(pool._evictions), list(cache._copies)

        before = others()
        super().add_drafts(plan, cache, max_num_tokens, max_model_len, max_num_logits)
        assert others() == before
        assert plan.num_tokens == sum(chunk.num_tokens + len(chunk.drafts) for chunk in plan.chunks) <= max_num_tokens
        for chunk in plan.chunks:
            assert chunk.end + len(chunk.drafts) < max_model_len or not chunk.drafts
            assert len(chunk.drafts) <= self.num_speculative_tokens


def random_requests(rng) -> list[tuple[list[int], SamplingParams]]:
    shared = [rng.randrange(VOCAB) for _ in range(12)]
    requests = []
    for _ in range(10):
        own = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
        prompt = (shared if rng.random() < 0.5 else []) + own
        greedy = rng.random() < 0.4
        params = SamplingParams(
            max_tokens=rng.choice([None, rng.randint(1, MAX_MODEL_LEN - len(prompt))]),
            temperature=0.0 if greedy else rng.choice([0.1, 0.3, 1.0]),
            top_p=rng.choice([1.0, 0.8]),
            top_k=rng.choice([0, 0, 5]),
            min_p=rng.choice([0.0, 0.0, 0.2]),
            seed=rng.randrange(1000),
            n=rng.choice([1, 1, 2, 3]),
            stop_token_ids=[rng.randrange(VOCAB) for _ in range(rng.randint(0, 2))],
            ignore_eos=rng.random() < 0.5,
            logprobs=rng.choice([None, 0, 3]),
            frequency_penalty=rng.choice([0.0, 0.0, 1.5]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
            logit_bias=rng.choice([{}, {}, {rng.randrange(VOCAB): 3.0, rng.randrange(VOCAB): -100}]),
        )
        requests.append((prompt, params))
    return requests


def answers_of(engine, requests) -> dict:
    """Every completion by (request id, index), after its pieces were found to add up to its tokens."""
    for number, (prompt, params) in enumerate(requests):
        engine.add_request(engine.make_request(prompt, params, f"request {number}", priority=number % 3))
    result = run_to_end(engine)
    answers = {(i, output.index): output for i, answer in result.answers.items() for output in answer.outputs}
    for (request_id, index), output in answers.items():
        pieces = [u for u in result.updates if (u.request_id, u.index) == (request_id, index)]
        assert [token for piece in pieces for token in piece.token_ids] == output.token_ids
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [output.finish_reason]
    return answers


def texts_of(answers: dict) -> dict:
    return {key: output.token_ids for key, output in answers.items()}


def check_names(engine, requests, answers) -> None:
    """Every page that has a name holds what a text without speculation has there."""
    content = {}
    for number, (prompt, _) in enumerate(requests):
        for (request_id, _), output in answers.items():
            if request_id == f"request {number}":
                text, names = [*prompt, *output.token_ids], []
                extend_block_hashes(names, text, BLOCK_SIZE)
                content |= {name: text[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE] for i, name in enumerate(names)}
    for block, name in engine.scheduler.cache.pool._hash_of_block.items():
        assert engine.runner.pages[block].tolist() == content[name]


@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 40),
    num_speculative_tokens=st.integers(1, 9),
    quality=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    batched=st.integers(4, 40),
    features=st.sets(st.sampled_from(FEATURES)),
)
@settings(max_examples=80, deadline=None)
def test_output_is_that_without_speculation(seed, num_blocks, num_speculative_tokens, quality, batched, features):
    requests = random_requests(random.Random(seed))
    expected = answers_of(make_engine(eos_token_ids=(3,)), requests)
    proposer = Seer(texts_of(expected), quality, random.Random(seed))
    with ExitStack() as stack:
        named = "no names" not in features
        tier = stack.enter_context(HostTier(20 * PAGE_BYTES)) if "tier" in features and named else None
        whole = "whole prompts" in features
        engine = make_engine(
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
            prefill_window=PrefillWindow(batched, 4, 12) if "window" in features and not whole else None,
            contiguous_priority=1 if "contiguous" in features else None,
            speculation=WatchedSpeculation(proposer, num_speculative_tokens),
        )
        assert answers_of(engine, requests) == expected
        check_names(engine, requests, expected)
    statistics = engine.get_statistics()
    rate, drafted = statistics["draft_acceptance_rate"], statistics["num_draft_tokens"]
    assert rate == pytest.approx(quality) or 0.0 < quality < 1.0 or not drafted
    sampled = sum(len(output.token_ids) for output in expected.values())
    assert statistics["num_output_tokens"] == sampled
    steps_of_sequences = engine.metrics.num_sequence_steps
    assert steps_of_sequences + statistics["num_accepted_tokens"] >= sampled >= steps_of_sequences


@given(seed=st.integers(0, 2**32), num_blocks=st.integers(11, 30), chunked=st.booleans())
@settings(max_examples=30, deadline=None)
def test_drafts_that_are_all_wrong_hold_nobody_up(seed, num_blocks, chunked):
    """The steps are those without speculation: who runs, from where, how far; who is preempted, what the cache hits."""
    requests = random_requests(random.Random(seed))

    def run(speculation=None):
        engine = make_engine(
            num_blocks=num_blocks,
            max_num_seqs=4,
            max_num_batched_tokens=12 if chunked else MAX_MODEL_LEN,
            enable_chunked_prefill=chunked,
            speculation=speculation,
        )
        steps, schedule = [], engine.scheduler.schedule

        def noted():
            plan = schedule()
            steps.append(
                [(c.sequence.request.request_id, c.sequence.index, c.start, c.num_tokens) for c in plan.chunks]
            )
            return plan

        engine.scheduler.schedule = noted
        answers = answers_of(engine, requests)
        return steps, answers, engine.scheduler.num_preemptions, engine.scheduler.prefix_cache_hit_rate, engine

    *plain, _ = run()
    *speculative, engine = run(WatchedSpeculation(Seer(texts_of(plain[1]), 0.0), 5))
    assert speculative == plain
    assert engine.get_statistics()["num_accepted_tokens"] == 0


@pytest.mark.parametrize(("num_speculative_tokens", "steps"), [(1, 1 + 10), (3, 1 + 5), (4, 1 + 4), (19, 1 + 1)])
def test_drafts_that_are_all_right_come_in_as_few_steps_as_there_can_be(num_speculative_tokens, steps):
    prompt, texts = [1, 2, 3], {("request 0", 0): expected_tokens([1, 2, 3], 21)}
    engine = make_engine(
        speculation=WatchedSpeculation(Seer(texts, 1.0), num_speculative_tokens), max_num_batched_tokens=20
    )
    answers = answers_of(engine, [(prompt, SamplingParams(max_tokens=21))])
    assert answers["request 0", 0].token_ids == texts["request 0", 0]
    statistics = engine.get_statistics()
    assert statistics["num_steps"] == steps
    assert statistics["tokens_per_sequence_step"] == 21 / steps
    assert statistics["num_draft_tokens"] == statistics["num_accepted_tokens"] == 21 - steps
    assert statistics["draft_acceptance_rate"] == 1


@pytest.mark.parametrize("quality", [0.0, 1.0])
def test_a_later_prompt_finds_as_many_pages_as_it_would(quality):
    prompt, text = [1, 2, 3], expected_tokens([1, 2, 3], 22)
    for speculation in (None, WatchedSpeculation(Seer({("request 0", 0): text}, quality), 9)):
        engine = make_engine(speculation=speculation)
        answers_of(engine, [(prompt, SamplingParams(max_tokens=22))])
        assert engine.scheduler.cache.pool.num_cached == (3 + 22 - 1) // BLOCK_SIZE  # the last token is never computed


def test_without_speculation_each_step_brings_each_sequence_a_token():
    engine = make_engine()
    answers_of(engine, [([1, 2], SamplingParams(max_tokens=9)), ([3], SamplingParams(max_tokens=5, n=2))])
    statistics = engine.get_statistics()
    assert statistics["tokens_per_sequence_step"] == 1
    assert statistics["num_draft_tokens"] == statistics["draft_acceptance_rate"] == 0


def test_text_that_repeats_itself_takes_fewer_steps_by_prompt_lookup(monkeypatch):
    monkeypatch.setattr(paged_oracle, "next_token", lambda context: (int(context[-1]) + 1) % 5)  # 0 1 2 3 4 0 1 2 ...

    def run(**options):
        engine = make_engine(**options)
        requests = [([0, 1], SamplingParams(max_tokens=33)), ([3], SamplingParams(max_tokens=38, temperature=0.01))]
        answers = answers_of(engine, requests)
        return texts_of(answers), engine.get_statistics()

    plain_texts, plain = run()
    texts, speculative = run(speculation=WatchedSpeculation(NgramProposer(1, 3), 4))
    assert texts == plain_texts
    assert texts["request 0", 0] == [place % 5 for place in range(2, 35)]
    assert speculative["num_steps"] < plain["num_steps"] / 2
    assert speculative["tokens_per_sequence_step"] > 2
    assert speculative["draft_acceptance_rate"] > 0.7


@pytest.mark.parametrize("stop", [{"stop": 3}, {"stop": 5}, {"eos": 4}, {"stop_token": 6}, {"max_tokens": 7}, {}])
def test_text_ends_where_it_would_and_nothing_is_drawn_behind_it(stop):
    letters = [chr(0x4E00 + token) for token in range(VOCAB)]
    decoder = SimpleNamespace(decode=lambda ids, skip_special_tokens=True: "".join(letters[i] for i in ids))
    prompt, params = [5, 6, 7], {"temperature": 0.05, "seed": 4, "max_tokens": stop.get("max_tokens", 12)}

    def run(speculation=None, eos_token_ids=(), **params):
        tokenizer = SimpleNamespace(backend=decoder, special_tokens={})
        engine = make_engine(tokenizer=tokenizer, eos_token_ids=eos_token_ids, speculation=speculation)
        request = engine.make_request(prompt, SamplingParams(**params), "request 0")
        engine.add_request(request)
        updates = run_to_end(engine).updates
        (sequence,) = request.sequences
        assert "".join(update.text for update in updates) == sequence.detokenizer.text
        draws_behind = sequence.sampling_state.generator.random()
        return sequence.output_token_ids, sequence.detokenizer.text, sequence.finish_reason, draws_behind

    free_text = run(**params)[0]
    eos = ()
    if "stop" in stop:
        params["stop"] = "".join(letters[token] for token in free_text[stop["stop"] : stop["stop"] + 2])
    if "stop_token" in stop:
        params["stop_token_ids"] = [free_text[stop["stop_token"]]]
    if "eos" in stop:
        eos = (free_text[stop["eos"]],)
    plain = run(eos_token_ids=eos, **params)
    assert len(plain[0]) < 12 or not stop
    for quality in (0.0, 0.7, 1.0):
        seer = Seer({("request 0", 0): free_text}, quality)
        assert run(WatchedSpeculation(seer, 5), eos, **params) == plain


def test_a_draft_that_the_device_refuses_costs_steps_and_no_answer():
    class Poisoner:
        def propose(self, sequence, count):
            return [VOCAB - 1] * count

    prompts = [prompt for prompt in ([seed, 2, 3] for seed in range(40)) if VOCAB - 1 not in expected_tokens(prompt, 8)]
    requests = [(prompt, SamplingParams(max_tokens=8)) for prompt in prompts[:4]]
    engine = make_engine(poison=VOCAB - 1, speculation=Speculation(Poisoner(), 2))
    answers = answers_of(engine, requests)
    for number, (prompt, _) in enumerate(requests):
        assert answers[f"request {number}", 0].token_ids == expected_tokens(prompt, 8)


def test_logits_behind_a_wrong_draft_do_not_matter():
    prompt, texts = [1, 2, 3], {("request 0", 0): expected_tokens([1, 2, 3], 9)}
    engine = make_engine(speculation=Speculation(Seer(texts, 0.0), 3))
    run = engine.runner.run

    def broken(inputs):
        logits = run(inputs)
        logits[1:] = np.nan
        return logits

    engine.runner.run = broken
    (answer,) = answers_of(engine, [(prompt, SamplingParams(max_tokens=9))]).values()
    assert answer.token_ids == texts["request 0", 0]


def test_broken_logits_behind_a_right_draft_end_the_request_after_the_tokens_before_them():
    prompt, texts = [1, 2, 3], {("request 0", 0): expected_tokens([1, 2, 3], 9)}
    engine = make_engine(speculation=Speculation(Seer(texts, 1.0), 3))
    run = engine.runner.run

    def broken(inputs):
        logits = run(inputs)
        logits[2:] = np.nan
        return logits

    engine.runner.run = broken
    engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=9), "request 0"))
    answer = run_to_end(engine).answers["request 0"]
    assert "finite" in answer.error
    assert answer.outputs[0].token_ids == texts["request 0", 0][:3]
    assert answer.outputs[0].finish_reason == "error"
    assert engine.scheduler.cache.pool.num_used == 0
