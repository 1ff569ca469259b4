from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.cache.compaction import CompactionTrigger, plan_moves


@given(live=st.sets(st.integers(1, 30)), max_moves=st.integers(0, 40))
def test_a_plan_fills_the_lowest_holes_from_the_top(live, max_moves):
    free = [block for block in range(1, 31) if block not in live]
    moves = plan_moves(free, sorted(live, reverse=True), max_moves)
    after = set(live)
    for source, destination in moves:
        assert source in after
        assert destination not in after
        assert destination < source
        after.remove(source)
        after.add(destination)
    assert len(moves) <= max_moves
    if len(moves) < max_moves:
        assert after == set(range(1, len(live) + 1)), "live blocks are not together"
    # No plan of fewer moves could do it: each block above the border has to move once.
    assert len(moves) <= len([block for block in live if block > len(live)])


def steady(trigger: CompactionTrigger, tokens_per_second: float, steps: int) -> None:
    for _ in range(steps):
        trigger.observe(tokens_per_second)


def test_fragmentation_is_enough_but_not_too_often():
    trigger = CompactionTrigger(fragmentation=0.5, min_steps=10)
    steady(trigger, 100, 9)
    assert not trigger.is_due(0.9)
    steady(trigger, 100, 1)
    assert trigger.is_due(0.5)
    assert not trigger.is_due(0.49)
    trigger.reset()
    assert not trigger.is_due(0.9)


def test_a_fall_of_more_than_a_tenth_is_enough():
    trigger = CompactionTrigger(min_steps=10)
    steady(trigger, 100, 200)
    assert not trigger.is_due(0)
    steady(trigger, 95, 20)
    assert not trigger.is_due(0)
    steady(trigger, 70, 20)
    assert trigger.is_due(0)


def test_after_a_compaction_the_new_pace_is_the_norm():
    trigger = CompactionTrigger(min_steps=10)
    steady(trigger, 100, 200)
    steady(trigger, 70, 60)
    trigger.reset()
    steady(trigger, 70, 60)
    assert not trigger.is_due(0)
