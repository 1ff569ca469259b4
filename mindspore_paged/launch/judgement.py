"""Who is to blame when a job does not go on: judged from what ranks said and when, without any process or clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mindspore_paged.launch import states
from mindspore_paged.launch.waiting import Position, all_in_graph, suspects


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, a job may stand still in each way before it is ended."""

    start: float = 600.0  # until every rank has connected
    silence: float = 10.0  # without a sign of life
    hang: float = 20.0  # nobody moves, and somebody waits for a rank that does something else
    slow: float = 600.0  # both of these, for states that take long
    step: float = 300.0  # all ranks are in the graph of one step
    exit: float = 20.0  # from a rank's goodbye at its interpreter's end to the end of its process
    orphans: float = 5.0  # no worker of this node lives, and one never connected
    grace: float = 0.3  # from the first fault, to hear what else went wrong at the same moment


@dataclass(frozen=True)
class Verdict:
    """How the job ends: an error for the user and the exit code of every process, or neither (exit code 0)."""

    error: str | None
    exit_code: int


@dataclass
class _Rank:
    """What is known of one rank; times are None for what has not happened."""

    group: tuple[int, ...]
    since: float
    position: Position = field(default_factory=Position)
    seen: float | None = None
    error: tuple[float, str, int] | None = None
    left: float | None = None
    exiting: float | None = None
    closed: float | None = None

    @property
    def lost(self) -> bool:
        """Whether its connection broke without a word before."""
        return self.closed is not None and self.left is None and self.error is None


class Judge:
    """Takes note of what each rank says, and gives the verdict as soon as there is one.

    Until ranks say otherwise all are one group, which computes in step behind its leader, rank 0. All times are seconds
    of one monotonic clock of the caller's.
    """

    def __init__(self, size: int, now: float, limits: Limits | None = None):
        self._limits = limits or Limits()
        self._ranks = [_Rank(tuple(range(size)), now) for _ in range(size)]
        self._started = self._judged = self._workers_seen = now

    def connected(self, rank: int, now: float) -> None:
        """A rank's first sign of life."""
        self._ranks[rank].seen = self._ranks[rank].since = now

    def has_connected(self, rank: int) -> bool:
        """Whether this rank ever gave a sign of life."""
        return self._ranks[rank].seen is not None

    def heard(self, rank: int, step: int, state: str, now: float) -> None:
        """A rank lives, and says where it is."""
        known = self._ranks[rank]
        known.seen = now
        position = replace(known.position, step=step, state=state)
        if known.position != position:
            known.position, known.since = position, now

    def joined(self, rank: int, group: Sequence[int]) -> None:
        """A rank computes in step with these ranks, itself among them, the leader first; ValueError if it cannot."""
        if rank not in group or len(set(group)) != len(group) or not set(group) <= set(range(len(self._ranks))):
            raise ValueError(f"rank {rank} cannot be in a group of ranks {list(group)}")
        self._ranks[rank].group = tuple(group)

    def failed(self, rank: int, message: str, exit_code: int, now: float) -> None:
        """A rank says why it cannot go on; its first word counts."""
        if self._ranks[rank].error is None:
            self._ranks[rank].error = (now, message, exit_code)

    def said_goodbye(self, rank: int, exiting: bool, now: float) -> None:
        """A rank is done; `exiting`: its interpreter is ending, so that its process must follow soon."""
        known = self._ranks[rank]
        known.left = known.since = now
        known.position = replace(known.position, left=True)
        if exiting:
            known.exiting = now

    def closed(self, rank: int, now: float) -> None:
        """A rank's connection is closed: its process has ended."""
        self._ranks[rank].closed = now

    def local_workers(self, some_live: bool, now: float) -> None:
        """Whether any worker of this node lives, by the operating system's word."""
        if some_live:
            self._workers_seen = now

    def verdict(self, now: float) -> Verdict | None:
        """How the job ends, or None while it may go on."""
        self._forgive_pause(now)
        fault = self._fault(now)
        if fault is not None:
            return fault
        if all(rank.left is not None and rank.closed is not None for rank in self._ranks):
            return Verdict(None, 0)
        text = self._not_started(now) or self._silent(now) or self._hang(now)
        return Verdict(f"error: {text}", 1) if text else None

    def _forgive_pause(self, now: float) -> None:
        # If it was us who did not run (a stopped or starved machine), nobody else is late for it.
        pause = now - self._judged
        self._judged = now
        if pause < self._limits.silence / 2:
            return
        self._workers_seen += pause
        for rank in self._ranks:
            rank.since += pause
            if rank.seen is not None:
                rank.seen += pause

    def _fault(self, now: float) -> Verdict | None:
        lost = [rank for rank, known in enumerate(self._ranks) if known.lost]
        failed = [rank for rank, known in enumerate(self._ranks) if known.error]
        times = [self._ranks[rank].closed for rank in lost] + [self._ranks[rank].error[0] for rank in failed]
        if not times or now - min(times) < self._limits.grace:
            return None
        # A rank that vanished makes others fail at the same moment, hardly the other way round.
        if lost:
            return Verdict(f"error: {self._end_without_a_word(min(lost, key=lambda r: self._ranks[r].closed))}", 1)
        first = min(failed, key=lambda r: self._ranks[r].error[0])
        _, message, exit_code = self._ranks[first].error
        alike = len(failed) == len(self._ranks) > 1 and all(known.error[1] == message for known in self._ranks)
        return Verdict(f"error: {'all ranks' if alike else f'rank {first}'}: {message}", exit_code)

    def _end_without_a_word(self, first: int) -> str:
        known = self._ranks[first]
        text = f"rank {first} ended without a word, last seen {known.position}"
        # msrun kills the other workers within two seconds of one that exits with a code.
        before = [
            rank
            for rank, other in enumerate(self._ranks)
            if other.left is not None and other.closed is not None and 0 <= known.closed - other.closed < 3.0
        ]
        if before:
            return f"{_names(before)} ended before the others, then {text}: see the log of {_names(before)}"
        missing = [rank for rank, other in enumerate(self._ranks) if other.seen is None]
        if missing and all(other.closed is not None for other in self._ranks if other.seen is not None):
            return f"{text}, and {_names(missing)} never connected: see the log of {_names(missing)}"
        return text

    def _not_started(self, now: float) -> str | None:
        missing = [rank for rank, known in enumerate(self._ranks) if known.seen is None]
        if missing and now - self._workers_seen > self._limits.orphans:
            who, whose = ("it", "its log") if len(missing) == 1 else ("them", "their logs")
            return f"{_names(missing)} ended before the supervisor heard from {who}: see {whose}"
        if missing and now - self._started > self._limits.start:
            return f"{_names(missing)} did not connect within {self._limits.start:.0f} s"
        return None

    def _silent(self, now: float) -> str | None:
        for rank, known in self._active().items():
            limit = self._limits.slow if states.is_slow(known.position.state) else self._limits.silence
            if known.seen is not None and now - known.seen > limit:
                return f"rank {rank} does not answer: no sign of life for {limit:.0f} s, last seen {known.position}"
        for rank, known in enumerate(self._ranks):
            if known.exiting is not None and known.closed is None and now - known.exiting > self._limits.exit:
                return f"rank {rank} is done, but its process does not end within {self._limits.exit:.0f} s"
        return None

    def _hang(self, now: float) -> str | None:
        positions = {rank: known.position for rank, known in enumerate(self._ranks)}
        for group in {known.group for known in self._ranks}:
            still = now - max(self._ranks[rank].since for rank in group)
            if still > self._limits.step and all_in_graph(group, positions):
                whose = "all ranks are" if len(group) == len(self._ranks) else f"{_names(group)} are"
                return f"step {positions[group[0]].step} does not end: {whose} in the graph for {still:.0f} s"
            found = suspects(group, positions)
            slow = any(states.is_slow(positions[rank].state) for rank in found)
            if found and still > (self._limits.slow if slow else self._limits.hang):
                return _hang_text(found, group, positions, still)
        return None

    def _active(self) -> dict[int, _Rank]:
        return {rank: known for rank, known in enumerate(self._ranks) if known.left is None}


def _hang_text(found: list[int], group: Sequence[int], positions: Mapping[int, Position], seconds: float) -> str:
    hang = f"{_names(found)} {'hangs' if len(found) == 1 else 'hang'}: for {seconds:.0f} s"
    where = f"{hang} {_places(found, positions)}"
    others = [rank for rank in group if rank not in found]
    if not others:
        return f"{where}, each waiting for another"
    whose = f"{_names(others)} is" if len(others) == 1 else "the others are"
    return f"{where} while {whose} {_places(others, positions)}"


def _places(ranks: Sequence[int], positions: Mapping[int, Position]) -> str:
    return _join(sorted({str(positions[rank]) for rank in ranks}))


def _names(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {_join([str(rank) for rank in ranks])}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
