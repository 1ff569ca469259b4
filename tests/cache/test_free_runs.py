"""FreeRuns against a plain set, under any order of calls."""

from itertools import groupby

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mindspore_paged.cache.free_runs import FreeRuns

END = 40


def runs_of(blocks) -> list[list[int]]:
    """Maximal runs of neighbours, found the slow way."""
    numbered = enumerate(sorted(blocks))
    return [[block for _, block in run] for _, run in groupby(numbered, key=lambda pair: pair[1] - pair[0])]


class AgainstASet(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.runs = FreeRuns(1, END)
        self.free = set(range(1, END))

    @property
    def lengths(self):
        return [len(run) for run in runs_of(self.free)]

    @precondition(lambda self: len(self.free) < END - 1)
    @rule(data=st.data())
    def add(self, data):
        block = data.draw(st.sampled_from(sorted(set(range(1, END)) - self.free)))
        self.runs.add(block)
        self.free.add(block)

    @rule(count=st.integers(0, 12))
    def take(self, count):
        shortest = min(self.lengths, default=0)
        longest = max(self.lengths, default=0)
        taken = self.runs.take(count)
        assert len(taken) == len(set(taken)) == min(count, len(self.free))
        assert set(taken) <= self.free
        self.free -= set(taken)
        if count <= shortest < longest:
            assert max(self.lengths) == longest, "a long run was broken while a shorter one would do"

    @rule(count=st.integers(1, 12))
    def take_run(self, count):
        fitting = [length for length in self.lengths if length >= count]
        taken = self.runs.take_run(count)
        if not fitting:
            assert taken is None
            return
        assert taken == list(range(taken[0], taken[0] + count))
        (run,) = (run for run in runs_of(self.free) if taken[0] in run)
        assert len(run) == min(fitting), "not the best fit"
        self.free -= set(taken)

    @rule(start=st.integers(1, END - 1))
    def take_front(self, start):
        begins_a_run = start in {run[0] for run in runs_of(self.free)}
        assert self.runs.take_front(start) == begins_a_run
        self.free -= {start} if begins_a_run else set()

    @rule(count=st.integers(0, 12))
    def take_top(self, count):
        taken = self.runs.take_top(count)
        assert taken == sorted(self.free, reverse=True)[:count]
        self.free -= set(taken)

    @invariant()
    def equal(self):
        self.runs.check_integrity()
        assert list(self.runs) == sorted(self.free)
        assert len(self.runs) == len(self.free)
        assert self.runs.num_runs == len(self.lengths)
        assert self.runs.longest == max(self.lengths, default=0)
        expected = 1 - self.runs.longest / len(self.free) if self.free else 0
        assert self.runs.fragmentation == pytest.approx(expected)


TestFreeRuns = AgainstASet.TestCase
TestFreeRuns.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
