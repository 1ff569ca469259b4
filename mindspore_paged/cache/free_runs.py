"""The free blocks as runs of neighbours: one block, or a whole run, is found without a search."""

import itertools
from array import array
from bisect import bisect_left, insort

from mindspore_paged.errors import IntegrityError

_MAX_STALE = 64
"""Stale entries that a stack may hold beyond its live ones before it is cleared of them."""


class FreeRuns:
    """A set of block ids kept as its maximal runs; `add` and the `take`s mutate.

    A run's length stands at its first and at its last block (Knuth's boundary tags), so that a freed block finds the
    runs beside it by looking at its neighbours::

        block     4   5   6   7   8   9  10
        first     3   0   0   0   0   2   0        runs 4-6 and 9-10; 7 and 8 are not free
        last      0   0   3   0   0   0   2

    Runs of each length are on a stack, and the lengths that occur are kept sorted. Lengths that all differ must add up
    to at most n blocks, so there are fewer than sqrt(2 n) of them: the shortest run that holds `count` blocks is found
    in O(log n), and no call looks at the other runs.

    A run that grows or is taken stays on its stack, and whoever comes upon it there sees by the tags that it is stale:
    in a large pool, to go and find it would miss the processor's caches several times for each block that is freed.
    """

    def __init__(self, start: int, end: int):
        """Hold the blocks start .. end - 1 as one run; no id outside them is ever added."""
        self._tags = array("i", bytes(8 * (end + 1)))  # first and last of a block side by side: one cache line
        self._stacks: dict[int, list[int]] = {}  # length -> first blocks of the runs that long, and stale ones
        self._num_of: dict[int, int] = {}  # length -> runs that long
        self._lengths: list[int] = []  # the keys of both, ascending
        self._num_runs = 0
        self._count = end - start
        self._end_id = end
        if end > start:
            self._insert(start, end - start)

    def __len__(self) -> int:
        return self._count

    def __iter__(self):
        for start, length in self._runs():
            yield from range(start, start + length)

    @property
    def num_runs(self) -> int:
        """Runs that the free blocks form."""
        return self._num_runs

    @property
    def longest(self) -> int:
        """Length of the longest run; 0 if nothing is free."""
        return self._lengths[-1] if self._lengths else 0

    @property
    def fragmentation(self) -> float:
        """Share of the free blocks outside the longest run: 0 when all are neighbours."""
        return 1 - self.longest / self._count if self._count else 0.0

    def add(self, block_id: int) -> None:
        """Free one block, which is not free yet; it joins the runs beside it."""
        before, behind = self._tags[2 * block_id - 1], self._tags[2 * block_id + 2]
        if before:
            self._remove(block_id - before, before)
        if behind:
            self._remove(block_id + 1, behind)
        self._insert(block_id - before, before + 1 + behind)
        self._count += 1

    def take(self, count: int) -> list[int]:
        """Take up to `count` blocks, from the shortest runs first, so that long runs stay whole."""
        taken: list[int] = []
        while len(taken) < count and self._lengths:
            length = self._lengths[0]
            taken += self._cut(length, min(count - len(taken), length))
        return taken

    def take_run(self, count: int) -> list[int] | None:
        """Take `count` neighbours out of the shortest run that holds so many; None if there is no such run."""
        place = bisect_left(self._lengths, count)
        if place == len(self._lengths):
            return None
        return list(self._cut(self._lengths[place], count))

    def take_front(self, start: int) -> bool:
        """Take block `start` if a run begins there; False if none does."""
        length = self._tags[2 * start]
        if not length:
            return False
        self._remove(start, length)
        if length > 1:
            self._insert(start + 1, length - 1)
        self._count -= 1
        return True

    def take_top(self, count: int) -> list[int]:
        """Take up to `count` blocks, those with the highest ids."""
        taken: list[int] = []
        for start, length in reversed(self._runs()):
            cut = min(count - len(taken), length)
            if cut == 0:
                break
            self._remove(start, length)
            if length > cut:
                self._insert(start, length - cut)
            taken += range(start + length - 1, start + length - 1 - cut, -1)
        self._count -= len(taken)
        return taken

    def check_integrity(self) -> None:
        """Raise IntegrityError unless runs are maximal, do not overlap, and all indexes agree."""
        runs = self._runs()
        for (start, length), (next_start, _) in itertools.pairwise([*runs, (self._end_id + 1, 0)]):
            if start + length >= next_start:
                raise IntegrityError(f"the free run at block {start} touches or overlaps the next one")
            if self._tags[2 * (start + length) - 1] != length:
                raise IntegrityError(f"the free run at block {start} of {length} blocks has wrong tags")
        if sum(length for _, length in runs) != self._count or len(runs) != self._num_runs:
            raise IntegrityError("the free runs do not add up to the free blocks")
        if 2 * len(runs) != len(self._tags) - self._tags.count(0):
            raise IntegrityError("a free run is on no stack, or a tag belongs to none")
        counts = {length: len(list(group)) for length, group in itertools.groupby(sorted(length for _, length in runs))}
        if self._lengths != sorted(self._stacks) or self._num_of != counts:
            raise IntegrityError("the lengths of the free runs are out of step with the runs")

    def _runs(self) -> list[tuple[int, int]]:
        return sorted((start, length) for length in self._lengths for start in self._live(length))

    def _live(self, length: int) -> dict[int, None]:
        """First blocks of the runs of this length, each where it stands on the stack for the last time."""
        newest_first = dict.fromkeys(s for s in reversed(self._stacks[length]) if self._tags[2 * s] == length)
        return dict.fromkeys(reversed(newest_first))

    def _cut(self, length: int, count: int) -> range:
        """Take `count` blocks off the front of the run of this length that was freed last."""
        stack = self._stacks[length]
        while self._tags[2 * stack[-1]] != length:
            stack.pop()
        start = stack.pop()
        self._remove(start, length)
        if length > count:
            self._insert(start + count, length - count)
        self._count -= count
        return range(start, start + count)

    def _insert(self, start: int, length: int) -> None:
        self._tags[2 * start] = self._tags[2 * (start + length) - 1] = length
        self._num_runs += 1
        if length not in self._num_of:
            self._num_of[length], self._stacks[length] = 0, []
            insort(self._lengths, length)
        self._num_of[length] += 1
        stack = self._stacks[length]
        stack.append(start)
        if len(stack) > 2 * self._num_of[length] + _MAX_STALE:
            stack[:] = self._live(length)

    def _remove(self, start: int, length: int) -> None:
        """Forget a run; on its stack it stays, stale."""
        self._tags[2 * start] = self._tags[2 * (start + length) - 1] = 0
        self._num_runs -= 1
        self._num_of[length] -= 1
        if not self._num_of[length]:
            del self._num_of[length], self._stacks[length]
            del self._lengths[bisect_left(self._lengths, length)]
