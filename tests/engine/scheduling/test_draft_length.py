"""How many drafts: against all lengths tried one by one with the true shares and times."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.engine.scheduling.draft_length import MOST_PATIENCE, PATIENCE, DraftLength
from mindspore_paged.engine.scheduling.step_costs import StepCosts

MOST = 6


def observe(length: DraftLength, share: float, count: int, rng: random.Random) -> None:
    for _ in range(count):
        right = next((place for place in range(MOST) if rng.random() >= share), MOST)
        length.observe_drafts(min(MOST, right + 1), right)


def measured(share, seconds, draft_seconds=lambda tokens: 0.0, count=400) -> DraftLength:
    """A DraftLength that has seen steps of all sizes, and drafts of which each is right with probability `share`."""
    length = DraftLength(MOST)
    observe(length, share, count, random.Random(0))
    for size in (2**power for power in range(9)):
        length.observe_step(size, seconds(size))
        length.observe_draft_step(size, draft_seconds(size))
    return length


def true_speeds(share, seconds, draft_seconds, num_sequences) -> list[float]:
    def up(tokens):
        return 1 << (tokens - 1).bit_length()

    return [
        sum(share**place for place in range(k + 1))
        / (seconds(up(num_sequences * (1 + k))) + k * draft_seconds(up(num_sequences)))
        for k in range(MOST + 1)
    ]


@given(
    share=st.sampled_from([0.02, 0.3, 0.6, 0.8, 0.95]),
    fixed=st.floats(0.1, 10),
    each=st.floats(0.0, 1.0),
    draft=st.floats(0.0, 3.0),
    num_sequences=st.integers(1, 32),
)
def test_the_choice_is_about_as_fast_as_the_best_of_all(share, fixed, each, draft, num_sequences):
    def seconds(tokens):
        return fixed + each * tokens

    def draft_seconds(tokens):
        return draft

    choice = measured(share, seconds, draft_seconds).choose(num_sequences, num_sequences)
    speeds = true_speeds(share, seconds, draft_seconds, num_sequences)
    assert speeds[choice] >= 0.85 * max(speeds)  # a share is known from some 50 steps


def test_right_drafts_on_a_step_that_costs_the_same_are_as_many_as_allowed():
    assert measured(1.0, lambda tokens: 1.0).choose(1, 1) == MOST


def test_wrong_drafts_are_not_made():
    assert measured(0.0, lambda tokens: 1.0 + 0.1 * tokens).choose(1, 1) == 0


def test_drafts_that_take_as_long_as_the_model_are_not_made():
    assert measured(0.9, lambda tokens: 1.0, lambda tokens: 1.0).choose(1, 1) == 0
    assert measured(0.9, lambda tokens: 1.0, lambda tokens: 0.05).choose(1, 1) > 0


def test_a_larger_batch_has_fewer_drafts_where_each_token_costs():
    lengths = [measured(0.8, lambda tokens: 8.0 + tokens).choose(batch, batch) for batch in (1, 4, 32)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_before_anything_was_measured_there_are_as_many_as_allowed():
    assert DraftLength(3).choose(5, 5) == 3


def test_after_enough_steps_without_one_is_tried_and_each_time_later():
    length = measured(0.0, lambda tokens: float(tokens))
    waits = [PATIENCE, 2 * PATIENCE, 4 * PATIENCE, MOST_PATIENCE, MOST_PATIENCE]
    waits[3:3] = [8 * PATIENCE] if 8 * PATIENCE < MOST_PATIENCE else []
    expected = [choice for wait in waits for choice in (*[0] * wait, 1)]
    assert [length.choose(1, 1) for _ in expected] == expected


def test_drafts_that_become_right_are_made_again():
    length = measured(0.0, lambda tokens: 1.0 + 0.1 * tokens)
    assert length.choose(1, 1) == 0
    for _ in range(100):  # what is tried from time to time has one place alone
        length.observe_drafts(1, 1)
    assert length.choose(1, 1) > 0


def test_shares_are_of_drafts_behind_right_ones():
    length = DraftLength(3)
    for _ in range(500):
        length.observe_drafts(2, 1)  # the first right, the second wrong, the third never checked
    first, second, third = length.rates()
    assert first == pytest.approx(1.0)
    assert second < 0.1
    assert third == pytest.approx(second)  # as good as those before it, for all that is known


def test_costs_are_averages_of_their_size_and_never_less_than_those_of_smaller_steps():
    costs = StepCosts()
    assert costs.seconds(1) is None
    costs.observe(3, 1.0)
    assert [costs.seconds(tokens) for tokens in (1, 3, 4, 100)] == [1.0] * 4
    for _ in range(200):
        costs.observe(4, 2.0)  # of the same size
    assert costs.seconds(3) == pytest.approx(2.0)
    costs.observe(8, 1.0)
    assert costs.seconds(5) == pytest.approx(2.0)
    costs.observe(64, 7.0)
    assert (costs.seconds(64), costs.seconds(65)) == (7.0, 7.0)
    assert costs.seconds(16) == pytest.approx(2.0)
