"""Pages behind a sliding window go back while a sequence runs, and no answer depends on it (see paged_oracle)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.scheduling.ngram_proposer import NgramProposer
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end


def submit(engine, prompt, max_tokens, **params) -> str:
    return engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=max_tokens, **params)))


def answer(engine, prompt, max_tokens) -> list[int]:
    request_id = submit(engine, prompt, max_tokens)
    return run_to_end(engine).answers[request_id].outputs[0].token_ids


@pytest.mark.parametrize("window", [1, 4, 9, 16])
def test_a_long_sequence_holds_no_more_than_its_window(window):
    engine = make_engine(num_blocks=16, max_model_len=400, window=window, enable_prefix_caching=False)
    request_id = submit(engine, [7] * 9, 380)
    held = []
    while engine.has_unfinished:
        output = engine.step()
        engine.check_integrity()
        held.append(engine.scheduler.cache.pool.num_used)
    assert output.finished[0].request_id == request_id
    assert output.finished[0].outputs[0].token_ids == expected_tokens([7] * 9, 380, window)
    assert max(held) <= -(-window // 4) + 1


def test_a_prompt_longer_than_the_pool_is_computed_in_chunks():
    """Chunks of 16 tokens and a window of 8 take at most 7 blocks of 4."""
    engine = make_engine(num_blocks=8, max_model_len=400, window=8)
    prompt = [random.Random(0).randrange(VOCAB) for _ in range(300)]
    assert answer(engine, prompt, 50) == expected_tokens(prompt, 50, 8)
    assert engine.get_statistics()["num_preemptions"] == 0


def test_many_long_sequences_share_a_pool_that_one_of_them_would_fill():
    """Without the window they preempt each other; with it there is room for all."""
    preemptions = {}
    for window in (0, 8):
        engine = make_engine(num_blocks=102, max_model_len=400, window=window)
        ids = [submit(engine, [seed] * 5, 390) for seed in range(8)]
        answers = run_to_end(engine, check=False).answers
        for seed, request_id in enumerate(ids):
            assert answers[request_id].outputs[0].token_ids == expected_tokens([seed] * 5, 390, window)
        preemptions[window] = engine.scheduler.num_preemptions
    assert preemptions[0] > 0 == preemptions[8]


def test_a_prompt_that_begins_like_an_earlier_one_hits_pages_of_which_it_holds_the_last():
    engine = make_engine(window=8)
    prompt = list(range(30))
    assert answer(engine, prompt, 5) == expected_tokens(prompt, 5, 8)
    computed = engine.get_statistics()["num_computed_tokens"]
    submit(engine, [*prompt, 1, 2], 5)
    engine.step()
    (sequence,) = engine.scheduler.running
    assert engine.get_statistics()["num_computed_tokens"] - computed == 32 - 28
    assert engine.scheduler.cache.table.num_blocks(sequence.row) == 2
    (longer,) = run_to_end(engine).answers.values()
    assert longer.outputs[0].token_ids == expected_tokens([*prompt, 1, 2], 5, 8)


@given(
    seed=st.integers(0, 2**32),
    window=st.integers(1, 30),
    num_blocks=st.integers(14, 40),
    batched=st.integers(2, 16),
    features=st.sets(st.sampled_from(["tier", "drafts", "no prefix cache"])),
)
@settings(max_examples=25, deadline=None)
def test_answers_do_not_depend_on_what_is_given_back(seed, window, num_blocks, batched, features):
    """Sequences longer than the pool, siblings, preemption, pages from below, guesses that prove wrong."""
    rng = random.Random(seed)
    with HostTier(400) as tier:
        engine = make_engine(
            num_blocks=num_blocks,
            max_num_seqs=4,
            max_num_batched_tokens=batched,
            max_model_len=160,
            window=window,
            enable_prefix_caching="no prefix cache" not in features,
            host_tier=tier if "tier" in features else None,
            swap_cost=SwapCost("always"),
            speculation=Speculation(NgramProposer(1, 3), 4) if "drafts" in features else None,
        )
        shared = [rng.randrange(4) for _ in range(40)]
        requests = {}
        for _ in range(8):
            prompt = shared[: rng.randint(0, 40)] + [rng.randrange(4) for _ in range(rng.randint(1, 30))]
            length = rng.randint(1, 60)
            requests[submit(engine, prompt, length, n=rng.choice([1, 1, 3]))] = prompt, length
        answers = run_to_end(engine).answers
    for request_id, (prompt, length) in requests.items():
        for output in answers[request_id].outputs:
            assert output.token_ids == expected_tokens(prompt, length, window)
