"""What every block of the pool was used for, step by step: a small file that grows with a run, and its reader."""

import json
import operator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.cache.block_table import NO_BLOCK
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.errors import ConfigError, IntegrityError
from mindspore_paged.files import naming
from mindspore_paged.wording import one_line

FREE, CACHED, PINNED, WITHHELD, NULL, SHARED = 0, -1, -2, -3, -4, -5
"""Codes of blocks that no single request owns; a code n above 0 is the request that arrived n-th."""

REQUEST = 1
"""Stands for every code above 0 where requests are counted together."""

MEANINGS = {
    FREE: "free",
    CACHED: "cached: nobody holds it, a later prompt may hit it",
    PINNED: "pinned: a preloaded prefix",
    WITHHELD: "withheld: taken out of use by elastic capacity",
    NULL: "null block: never handed out",
    SHARED: "shared by several requests",
    REQUEST: "n above 0: held by the n-th request",
}

_FORMAT = "mindspore_paged pool events"
_VERSION = 1
_LONGEST_HEADER = 4096

MOST_BYTES, MOST_BLOCKS, MOST_STEPS, MOST_RUNS, MOST_COUNTS = 64 * 2**20, 2**24, 500_000, 1_000_000, 16
MOST_CHANGED_BLOCKS = 2**28
"""What a log may have to be shown: bytes, blocks of the pool, steps, changed runs of blocks and counts, and blocks in
all runs together. Read within some seconds and 1 GB, whoever wrote it."""
_NUM_KINDS = REQUEST - SHARED + 1


def block_owners(cache: CacheManager, row_owner: Mapping[int, int]) -> np.ndarray:
    """The code of every block now: int32 [num_blocks].

    row_owner: the request, counted from 1, of each row that holds blocks. A pinned block stays pinned while requests
    hold it too; one that rows of different requests hold is shared. Raises IntegrityError for a row without an owner.
    """
    pool, block_tables = cache.pool, cache.table.block_tables
    owner_of_row = np.zeros(len(block_tables), np.int32)
    owner_of_row[list(row_owner)] = list(row_owner.values())
    rows, columns = np.nonzero(block_tables != NO_BLOCK)
    holders = owner_of_row[rows]
    if (holders < REQUEST).any():
        raise IntegrityError(f"row {rows[holders < REQUEST][0]} holds blocks, but no request numbered from 1 owns it")
    held = block_tables[rows, columns]
    owners = np.full(pool.num_blocks, FREE, np.int32)
    owners[np.fromiter(pool.cached_blocks(), np.int64)] = CACHED
    owners[held] = holders
    owners[held[owners[held] != holders]] = SHARED  # of several holders one was written; the others notice
    owners[np.fromiter(pool.pinned_blocks(), np.int64)] = PINNED
    owners[np.fromiter(pool.withheld_blocks(), np.int64)] = WITHHELD
    owners[0] = NULL
    return owners


class PoolEventLog:
    """Writes a run's block owners to a JSON Lines file; `record` and `close` mutate. Usable in a `with` statement.

    The first line says how to read the file. Each further line is a step: the runs of blocks that changed owner, as
    [first block, number of blocks, code], and the counts that changed. Before the first step all blocks are free and
    all counts 0. Each line is handed to the system at once: a run that is killed leaves a readable file.
    """

    def __init__(self, path: str | Path, num_blocks: int, block_size: int):
        """Start the file anew, whatever it held; raises ConfigError if it cannot be written."""
        self._owners = np.full(num_blocks, FREE, np.int32)
        self._counts: dict[str, int] = {}
        self._last_step = -1
        try:
            self._file = open(path, "w", encoding="ascii", newline="\n")  # noqa: SIM115, closed by close()
        except OSError as error:
            raise ConfigError(f"{path}: cannot write the pool's event log: {error.strerror}") from None
        header = {"format": _FORMAT, "version": _VERSION, "num_blocks": num_blocks, "block_size": block_size}
        self._write(header | {"codes": {str(code): meaning for code, meaning in MEANINGS.items()}})

    def record(self, step: int, owners: np.ndarray, **counts: int) -> None:
        """Add a step.

        step: larger than the one before. owners: int32 [num_blocks], see `block_owners`; copied.
        counts: whole numbers by name. The picture shows `running`, `waiting`, `host_pages`, and `preemptions` since
        the start of the run. Raises IntegrityError for a step out of order or owners of another pool, and OSError if
        the disk refuses the line.
        """
        if step <= self._last_step:
            raise IntegrityError(f"step {step} is recorded after step {self._last_step}")
        if owners.shape != self._owners.shape or owners.dtype != np.int32 or owners.min() < SHARED:
            raise IntegrityError(
                f"owners are {owners.dtype} {owners.shape}; a code of at least {SHARED} is needed for each of "
                f"{len(self._owners)} blocks, as int32"
            )
        counts = {name: operator.index(value) for name, value in counts.items()}
        line = {
            "step": step,
            "changes": _changed_runs(self._owners, owners),
            "counts": {name: value for name, value in counts.items() if value != self._counts.get(name)},
        }
        self._write({name: value for name, value in line.items() if value or name == "step"})
        self._last_step = step
        self._owners[:] = owners
        self._counts.update(counts)

    def close(self) -> None:
        """Close the file; nothing can be recorded afterwards."""
        with suppress(OSError):  # of a line that the disk refused: record() has told
            self._file.close()

    def __enter__(self) -> "PoolEventLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _write(self, line: dict) -> None:
        with naming(self._file.name):
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()


@dataclass(frozen=True)
class EventLog:
    """A run as it was recorded, S steps of it.

    steps: int64 [S], ascending. counts: by name int64 [S], 0 before the first mention.
    changes: for each step int32 [C, 3], rows of first block, number of blocks, code.
    """

    num_blocks: int
    block_size: int
    steps: np.ndarray
    counts: dict[str, np.ndarray]
    changes: list[np.ndarray]

    def owners_at(self, steps: np.ndarray, blocks: np.ndarray | None = None) -> np.ndarray:
        """The codes of `blocks` (all if None) after each of `steps`: int32 [len(steps), len(blocks)].

        steps: ascending; between recorded steps, and after the last, nothing changes. Take fewer steps and blocks for
        a smaller matrix: memory grows with what is asked for, not with the run.
        """
        blocks = np.arange(self.num_blocks) if blocks is None else blocks
        matrix = np.empty((len(steps), len(blocks)), np.int32)
        owners = np.full(self.num_blocks, FREE, np.int32)
        applied = 0
        for place, end in enumerate(np.searchsorted(self.steps, steps, side="right")):
            for first, length, code in chain.from_iterable(runs.tolist() for runs in self.changes[applied:end]):
                owners[first : first + length] = code
            applied = end
            matrix[place] = owners[blocks]
        return matrix

    def census(self) -> dict[int, np.ndarray]:
        """How many blocks each code has after every step, by code, all requests under REQUEST: int64 [S] each."""
        kinds = bytearray([_kind(FREE)]) * self.num_blocks
        totals = np.zeros((len(self.steps), _NUM_KINDS), np.int64)
        now = [kinds.count(kind) for kind in range(_NUM_KINDS)]
        for place, runs in enumerate(self.changes):
            for first, length, code in runs.tolist():
                before = kinds[first : first + length]
                for kind in set(before) if length < _NUM_KINDS else range(_NUM_KINDS):
                    now[kind] -= before.count(kind)
                now[_kind(code)] += length
                kinds[first : first + length] = bytes([_kind(code)]) * length
            totals[place] = now
        return {code: totals[:, _kind(code)] for code in MEANINGS}


def read_event_log(path: str | Path) -> EventLog:
    """Read what a PoolEventLog wrote; the last line may be cut off, as a killed run leaves it.

    Raises ConfigError, which names the file and the line, for any other file and any other damage, and for what is too
    large to be shown.
    """
    try:
        data = read_bounded(path, MOST_BYTES)
    except (OSError, ValueError) as error:  # a ValueError is of a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot read the pool's event log: {reason}") from None
    first, _, rest = data.partition(b"\n")
    header = _read_header(path, first[:_LONGEST_HEADER])
    # Before anything is made of them: an object of Python is many times as large as its text.
    _check_most(path, rest.count(b"\n"), MOST_STEPS, "steps")
    _check_most(path, rest.count(b"[") - rest.count(b'"changes"'), MOST_RUNS, "changes")
    *lines, _ = rest.split(b"\n")  # what follows the last is empty, or a line that was cut off
    return _EventLogReader(path, header).read(lines)


_Block = Annotated[int, Field(ge=0, lt=2**31)]
_Length = Annotated[int, Field(ge=1, lt=2**31)]
_CountName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)
    format: Literal[_FORMAT]
    version: int
    num_blocks: Annotated[int, Field(ge=2, lt=2**31)]
    block_size: Annotated[int, Field(ge=1, lt=2**31)]


class _Step(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    step: Annotated[int, Field(ge=0, lt=2**48)]
    changes: Annotated[list[tuple[_Block, _Length, Annotated[int, Field(ge=SHARED, lt=2**31)]]], FailFast()] = []
    counts: dict[_CountName, Annotated[int, Field(gt=-(2**48), lt=2**48)]] = {}


def _read_header(path, line: bytes) -> _Header:
    try:
        header = _Header.model_validate_json(line)
    except ValidationError:
        raise ConfigError(f"{path} is not an event log of the block pool") from None
    if header.version != _VERSION:
        raise ConfigError(f"{path} is an event log of version {header.version}; this program reads version {_VERSION}")
    _check_most(path, header.num_blocks, MOST_BLOCKS, "blocks")
    return header


def _check_most(path, count: int, most: int, what: str) -> None:
    if count > most:
        raise ConfigError(f"{path} is too large to be shown: {count} {what}; at most {most} can be")


class _EventLogReader:
    """Makes an EventLog of a file's lines; `read` mutates."""

    def __init__(self, path, header: _Header):
        self._path = path
        self._header = header
        self._num_changed = 0
        self._mentions: dict[str, dict[int, int]] = {}  # of each count: its new value by place, where it changed

    def read(self, lines: list[bytes]) -> EventLog:
        steps = np.empty(len(lines), np.int64)
        changes, nothing = [], np.empty((0, 3), np.int32)
        for place, line in enumerate(lines):
            entry = self._read_step(f"{self._path} line {place + 2}", line)
            steps[place] = entry.step
            changes.append(np.array(entry.changes, np.int32) if entry.changes else nothing)
            for name, value in entry.counts.items():
                self._mentions.setdefault(name, {})[place] = value
            _check_most(self._path, len(self._mentions), MOST_COUNTS, "counts")
        backwards = np.flatnonzero(np.diff(steps) <= 0)
        if backwards.size:
            raise ConfigError(f"{self._path} line {backwards[0] + 3} is damaged: its step is not after the one before")
        counts = {name: _carried_on(values, len(lines)) for name, values in self._mentions.items()}
        return EventLog(self._header.num_blocks, self._header.block_size, steps, counts, changes)

    def _read_step(self, place: str, line: bytes) -> _Step:
        if line.count(b":") > 3 + MOST_COUNTS:  # its keys and its counts
            raise ConfigError(f"{place} is damaged: it holds more than {MOST_COUNTS} counts")
        try:
            entry = _Step.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise ConfigError(one_line(f"{place} is damaged: {where}{': ' if where else ''}{problem['msg']}")) from None
        for first, length, _ in entry.changes:
            if first + length > self._header.num_blocks:
                raise ConfigError(
                    f"{place} is damaged: it changes block {first + length - 1} of {self._header.num_blocks}"
                )
            self._num_changed += length
        _check_most(self._path, self._num_changed, MOST_CHANGED_BLOCKS, "changed blocks")
        return entry


def _carried_on(values: dict[int, int], num_steps: int) -> np.ndarray:
    """A count over all steps, 0 at first: what a step does not mention is as it was."""
    places = np.zeros(num_steps, np.int64)
    mentioned = np.fromiter(values, np.int64)
    places[mentioned] = np.arange(1, len(values) + 1)
    return np.append(0, np.fromiter(values.values(), np.int64))[np.maximum.accumulate(places)]


def _changed_runs(before: np.ndarray, after: np.ndarray) -> list[list[int]]:
    """Neighbouring blocks that got the same new code, as [first block, number of blocks, code]."""
    changed = np.flatnonzero(before != after)
    codes = after[changed]
    breaks = np.flatnonzero((np.diff(changed) != 1) | (np.diff(codes) != 0)) + 1
    firsts = np.concatenate([[0], breaks])[: len(changed)]
    lengths = np.diff(np.append(firsts, len(changed)))
    return np.stack([changed[firsts], lengths, codes[firsts]], axis=1).tolist()


def _kind(code: int) -> int:
    """A code counted from 0, with all requests in one."""
    return min(code, REQUEST) - SHARED
