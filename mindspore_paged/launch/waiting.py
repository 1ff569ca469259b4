"""Who waits for whom in a group of ranks that compute in step, and who is therefore to blame if nobody moves.

A step begins with its graph; what comes after the graph, waiting too, carries the number of the step just done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mindspore_paged.launch import states


@dataclass(frozen=True)
class Position:
    """Where a rank is, by its own word."""

    step: int = 0
    state: str = states.STARTING
    left: bool = False

    def __str__(self):
        return "done" if self.left else f"at step {self.step} ({self.state})"


def suspects(group: Sequence[int], positions: Mapping[int, Position]) -> list[int]:
    """The ranks of a group, its leader first, whose fault it is if nobody moves; empty if nobody waits for another.

    They are awaited and wait for none themselves, or are alone in a graph; in a circle, those furthest behind.
    """
    waits = {rank: _awaited_by(rank, group, positions) for rank in group}
    awaited = set().union(*waits.values())
    alone = {rank for rank in group if _in_graph(positions[rank]) and any(_beyond(positions, rank, o) for o in group)}
    found = {rank for rank in awaited | alone if not waits[rank]}
    if not found and awaited:
        behind = min(positions[rank].step for rank in awaited)
        found = {rank for rank in awaited if positions[rank].step == behind}
    return sorted(found)


def all_in_graph(group: Sequence[int], positions: Mapping[int, Position]) -> bool:
    """Whether all ranks of a group are in the graph of one step."""
    return all(_in_graph(positions[rank]) and positions[rank] == positions[group[0]] for rank in group)


def _awaited_by(rank: int, group: Sequence[int], positions: Mapping[int, Position]) -> set[int]:
    own = positions[rank]
    others = {other for other in group if other != rank and not _at_rest(positions[other])}
    if _in_graph(own):
        return {other for other in others if _before_graph(positions[other], own.step)}
    if states.is_waiting(own.state) and not own.left:
        return others if rank == group[0] else others & {group[0]}
    return set()


def _before_graph(position: Position, step: int) -> bool:
    if _at_rest(position):
        return False
    if position.step != step:
        return position.step < step
    return not _in_graph(position) and not states.is_waiting(position.state)


def _beyond(positions: Mapping[int, Position], rank: int, other: int) -> bool:
    return positions[other] != positions[rank] and not _before_graph(positions[other], positions[rank].step)


def _at_rest(position: Position) -> bool:
    # A leader without requests lets the others wait for as long as it likes, and who is done is awaited in vain.
    return position.left or position.state == states.IDLE


def _in_graph(position: Position) -> bool:
    return position.state == states.IN_THE_GRAPH and not position.left
