"""Allowances against sums over plain lists, and what they do to long and short prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.engine.scheduling.policies import policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.errors import ConfigError
from tests.engine.simulation import make_job, make_scheduler, simulate

STEP = 256
FULL = 10 * STEP  # others want far more than a step holds


@given(
    share=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    num_steps=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 2 * STEP), st.floats(0, 1)), max_size=40),
)
def test_no_window_gives_more_than_its_share_but_for_what_others_leave_and_a_token_a_step(share, num_steps, steps):
    window = PrefillWindow(STEP, 16, 512, share, num_steps)
    taken = []
    for others, appetite in steps:
        allowance = window.allowance(others)
        recent = taken[-(num_steps - 1) :] if num_steps > 1 else []
        of_share = int(share * STEP * (len(recent) + 1)) - sum(recent)
        left_by_others = STEP - others
        assert 1 <= allowance <= STEP
        assert allowance == min(STEP, max(1, of_share, left_by_others))
        taken.append(int(appetite * allowance))
        window.record(taken[-1])


def test_while_others_want_everything_long_prefills_have_their_share_of_each_window():
    window = PrefillWindow(STEP, 16, 512, share=0.25, num_steps=4)
    taken = []
    for _ in range(40):
        taken.append(window.allowance(FULL))
        window.record(taken[-1])
    assert all(sum(taken[i : i + 4]) <= 0.25 * 4 * STEP + 3 for i in range(37))
    assert sum(taken) >= 0.25 * 40 * STEP - 4


def test_what_was_taken_of_idle_steps_counts_once_others_come():
    window = PrefillWindow(STEP, 16, 512, share=0.5, num_steps=4)
    for _ in range(10):
        assert window.allowance(0) == STEP
        window.record(STEP)
    contended = []
    for _ in range(4):
        contended.append(window.allowance(FULL))
        window.record(contended[-1])
    assert contended == [1, 1, 254, STEP]


def test_what_others_leave_is_for_long_prefills_whatever_they_took_before():
    window = PrefillWindow(STEP, 16, 512, share=0.1, num_steps=4)
    for _ in range(10):
        assert window.allowance(16) == STEP - 16
        window.record(STEP - 16)


def test_a_prefill_is_long_beyond_long_prompt_tokens():
    window = PrefillWindow(STEP, 16, 512)
    assert not window.is_long(512)
    assert window.is_long(513)


def test_a_long_prompt_goes_on_block_by_block_under_a_flood_of_short_ones():
    window = PrefillWindow(64, 16, 100, share=0.1, num_steps=4)
    patient = make_job(0, 1000, 1)
    flood = [make_job(step, 90, 1, step) for step in range(1, 400)]
    policy = policy_by_name("shortest", lambda request: 1, ageing_steps=1000)
    simulate(make_scheduler(64, 8, policy=policy, prefill_window=window), [patient, *flood])
    assert 1000 / (0.1 * 64) - 4 < patient.ended_at < 1000 / (0.1 * 64) + 4
    assert sum(job.ended_at > patient.ended_at for job in flood) > 100


def test_a_short_prompt_finds_the_step_free_where_a_long_one_had_its_share_before():
    window = PrefillWindow(64, 16, 100, share=0.5, num_steps=4)
    long, short = make_job(0, 1000, 1), make_job(1, 63, 1, arrives_at=4)
    simulate(make_scheduler(64, 8, prefill_window=window), [long, short])
    assert short.wait == 1


def test_a_second_long_prompt_takes_no_row_while_the_first_uses_up_their_share():
    window = PrefillWindow(64, 16, 100, share=0.5, num_steps=4)
    first, second, short = make_job(0, 1000, 1), make_job(1, 1000, 1, arrives_at=1), make_job(2, 30, 1, arrives_at=1)
    simulate(make_scheduler(64, max_num_seqs=2, prefill_window=window), [first, second, short])
    assert short.wait == 1
    assert first.ended_at < second.ended_at


def test_long_prompts_alone_take_the_same_steps_with_a_window_as_without():
    def steps(window):
        jobs = [make_job(arrival, 1000, 3, arrival) for arrival in range(6)]
        return simulate(make_scheduler(64, 8, prefill_window=window), jobs)

    assert steps(PrefillWindow(64, 16, 100, share=0.1)) == steps(None)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"share": 0}, "share is 0;"),
        ({"share": 1.5}, "share is 1.5;"),
        ({"share": float("nan")}, "share is nan;"),
        ({"long_prompt_tokens": 0}, "long_prompt_tokens is 0;"),
        ({"num_steps": 0}, "window of 0 steps"),
        ({"share": 0.01, "num_steps": 6}, r"share 0.01 of a window of 6 steps of 256 tokens is less than a block \(16"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        PrefillWindow(**{"step_tokens": STEP, "block_size": 16, "long_prompt_tokens": 512} | options)


def test_a_share_that_is_just_a_block_is_enough():
    window = PrefillWindow(STEP, 16, 512, share=0.03125, num_steps=2)
    window.record(0)
    assert window.allowance(FULL) == 16
