"""Compaction: which blocks move where so that the free ones become neighbours."""

from collections.abc import Iterable


def plan_moves(free_blocks: Iterable[int], live_blocks: Iterable[int], max_moves: int) -> list[tuple[int, int]]:
    """At most `max_moves` moves (source, destination) that fill the lowest holes with the highest live blocks.

    free_blocks: ascending. live_blocks: descending. Every move shortens what is left to do, so that a plan that is cut
    off is still worth doing::

        before   A . B . . C D        moves (D -> 1), (C -> 3)
        after    A D B C . . .
    """
    moves: list[tuple[int, int]] = []
    for hole, live in zip(free_blocks, live_blocks, strict=False):
        if hole > live or len(moves) == max_moves:
            break
        moves.append((live, hole))
    return moves


class CompactionTrigger:
    """Says when to compact: too fragmented, or slower than before by more than `throughput_drop`; `observe` mutates.

    fragmentation: share of the free blocks outside the longest run, at and above which to compact.
    throughput_drop: share of the running mean (the article: 10%). min_steps: steps between two compactions, so that a
    cause that compaction cannot mend does not make it run for ever.
    """

    def __init__(self, fragmentation: float = 0.5, throughput_drop: float = 0.1, min_steps: int = 64):
        self.fragmentation = fragmentation
        self.throughput_drop = throughput_drop
        self.min_steps = min_steps
        self._mean: float | None = None
        self._recent: float | None = None
        self._steps_since = 0

    def observe(self, tokens_per_second: float) -> None:
        """Take note of one step's throughput: the recent mean follows within 8 steps, the running one within 64."""
        if self._mean is None:
            self._mean = self._recent = tokens_per_second
        self._mean += (tokens_per_second - self._mean) / 64
        self._recent += (tokens_per_second - self._recent) / 8
        self._steps_since += 1

    def is_due(self, fragmentation: float) -> bool:
        """Whether to compact before the next step."""
        if self._steps_since < self.min_steps:
            return False
        return fragmentation >= self.fragmentation or self._recent < (1 - self.throughput_drop) * self._mean

    def reset(self) -> None:
        """Begin anew after a compaction: what was slow before it says nothing about what comes."""
        self._steps_since = 0
        self._mean = self._recent
