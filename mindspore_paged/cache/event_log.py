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
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mindspore_paged.cache.block_table import NO_BLOCK
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.errors import ConfigError, IntegrityError
from mindspore_paged.files import naming

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
        owners = np.full(self.num_blocks, FREE, np.int32)
        totals = np.zeros((len(self.steps), _NUM_KINDS), np.int64)
        now = np.bincount(_kinds(owners), minlength=_NUM_KINDS)
        for place, runs in enumerate(self.changes):
            for first, length, code in runs.tolist():
                now -= np.bincount(_kinds(owners[first : first + length]), minlength=_NUM_KINDS)
                now[_kinds(code)] += length
                owners[first : first + length] = code
            totals[place] = now
        return {code: totals[:, _kinds(code)] for code in MEANINGS}


def read_event_log(path: str | Path) -> EventLog:
    """Read what a PoolEventLog wrote; the last line may be cut off, as a killed run leaves it.

    Raises ConfigError, which names the file and the line, for any other file and any other damage.
    """
    try:
        with open(path, "rb") as file:
            header = _read_header(path, file.readline(_LONGEST_HEADER))
            *lines, _ = file.read().split(b"\n")  # the rest is empty, or a line that was cut off
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the pool's event log: {error.strerror}") from None
    entries = [_read_step(f"{path} line {number}", line, header) for number, line in enumerate(lines, start=2)]
    steps = np.array([entry.step for entry in entries], np.int64)
    backwards = np.flatnonzero(np.diff(steps) <= 0)
    if backwards.size:
        raise ConfigError(f"{path} line {backwards[0] + 3} is damaged: its step is not after the one before")
    changes = [np.array(entry.changes, np.int32).reshape(-1, 3) for entry in entries]
    return EventLog(header.num_blocks, header.block_size, steps, _counts_of(entries), changes)


_Block = Annotated[int, Field(ge=0, lt=2**31)]


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)
    format: Literal[_FORMAT]
    version: int
    num_blocks: Annotated[int, Field(ge=2, lt=2**31)]
    block_size: Annotated[int, Field(ge=1)]


class _Step(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    step: Annotated[int, Field(ge=0, lt=2**63)]
    changes: list[tuple[_Block, _Block, Annotated[int, Field(ge=SHARED, lt=2**31)]]] = []
    counts: dict[str, Annotated[int, Field(ge=-(2**63), lt=2**63)]] = {}


def _read_header(path, line: bytes) -> _Header:
    try:
        header = _Header.model_validate_json(line)
    except ValidationError:
        raise ConfigError(f"{path} is not an event log of the block pool") from None
    if header.version != _VERSION:
        raise ConfigError(f"{path} is an event log of version {header.version}; this program reads version {_VERSION}")
    return header


def _read_step(place: str, line: bytes, header: _Header) -> _Step:
    try:
        entry = _Step.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{place} is damaged: {where}{': ' if where else ''}{problem['msg']}") from None
    for first, length, _ in entry.changes:
        if first + length > header.num_blocks:
            raise ConfigError(f"{place} is damaged: it changes block {first + length - 1} of {header.num_blocks}")
    return entry


def _counts_of(entries: list[_Step]) -> dict[str, np.ndarray]:
    """Each count over all steps: what a step does not mention is as it was."""
    counts = {name: np.zeros(len(entries), np.int64) for entry in entries for name in entry.counts}
    now = dict.fromkeys(counts, 0)
    for place, entry in enumerate(entries):
        now.update(entry.counts)
        for name, value in now.items():
            counts[name][place] = value
    return counts


def _changed_runs(before: np.ndarray, after: np.ndarray) -> list[list[int]]:
    """Neighbouring blocks that got the same new code, as [first block, number of blocks, code]."""
    changed = np.flatnonzero(before != after)
    codes = after[changed]
    breaks = np.flatnonzero((np.diff(changed) != 1) | (np.diff(codes) != 0)) + 1
    firsts = np.concatenate([[0], breaks])[: len(changed)]
    lengths = np.diff(np.append(firsts, len(changed)))
    return np.stack([changed[firsts], lengths, codes[firsts]], axis=1).tolist()


def _kinds(codes):
    """Codes, or one code, counted from 0, with all requests in one."""
    return np.minimum(codes, REQUEST) - SHARED
