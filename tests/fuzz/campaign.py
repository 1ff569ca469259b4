"""Many mutants of some formats, over one or more workers: figures by format, and what was found as files."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.formats import file_format
from tests.fuzz.judge import CRASH, FAULTS, HANG, MEMORY, OTHER, REFUSED, RIGHT, UNCLEAR, WRONG, Verdict, fingerprint
from tests.fuzz.mutant import written

ROOT = Path(__file__).parents[2]
BATCH = 100
SAVED_OF_ONE_ORIGIN = 3


@dataclass
class Figures:
    """What came of the mutants of one format."""

    outcomes: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    largest_bytes: int = 0
    faults: list[tuple[int, Verdict]] = field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> None:
        """Count a verdict."""
        self.outcomes[verdict.outcome] += 1
        self.slowest = max(self.slowest, verdict.seconds)
        self.largest_bytes = max(self.largest_bytes, verdict.bytes)
        if verdict.outcome in FAULTS:
            self.faults.append((number, verdict))


class Worker:
    """A worker process; `judged` may be called from one thread at a time. Usable in a `with` statement."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "GLOG_v": "4", "PYTHONWARNINGS": "ignore"},
        )

    def judged(self, name: str, seed: int, first: int, count: int) -> Iterator[tuple[int, Verdict]]:
        """(number, Verdict) of `count` mutants from `first` on; raises RuntimeError where the harness itself fails."""
        self._process.stdin.write(json.dumps([name, seed, first, count]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line == "\n":
                return
            result = json.loads(line)
            yield result.pop("number"), Verdict(**result)
        raise RuntimeError(f"the worker ended: {self._process.stderr.read()}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.stderr.close()
        self._process.wait()


def run(
    name: str,
    seed: int,
    workers: list[Worker],
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Figures:
    """Judge mutants 0, 1, … of a format: `count` of them at most, for `seconds` at most.

    progress: hears the length of each batch that is done.
    """
    figures, lock = Figures(), threading.Lock()
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    begun, failures = 0, []

    def serve(worker: Worker) -> None:
        nonlocal begun
        try:
            while not failures and time.monotonic() < end:
                with lock:
                    first, length = begun, BATCH if count is None else min(BATCH, count - begun)
                    begun += length
                if not length:
                    return
                results = list(worker.judged(name, seed, first, length))
                with lock:
                    for number, verdict in results:
                        figures.add(number, verdict)
                    progress(length)
        except Exception as error:  # noqa: BLE001, raised again by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return figures


def save_faults(name: str, seed: int, figures: Figures, folder: Path) -> list[Path]:
    """Write mutants that were faults, a few of each origin, to folders of their own with what happened beside them."""
    saved, seen = [], Counter()
    for number, verdict in figures.faults:
        origin = f"{verdict.outcome}_{fingerprint(verdict.where)}"
        seen[origin] += 1
        if seen[origin] <= SAVED_OF_ONE_ORIGIN:
            mutant = file_format(name).mutant(seed, number)
            place = written(mutant.files, folder / name / f"{origin}_{seed}_{number}")
            (place / "WHAT.txt").write_text(
                f"{verdict.outcome}: {verdict.where}\n{mutant.what[:2000]}\n{verdict.detail}\n", errors="replace"
            )
            saved.append(place)
    return saved


COLUMNS = (RIGHT, REFUSED, WRONG, UNCLEAR, OTHER, HANG, MEMORY, CRASH)


def table(figures: dict[str, Figures]) -> str:
    """The figures by format, and their sums, as lines of text."""
    titles = ["format", "mutants", "right", "one-line refusals", *COLUMNS[2:], "slowest s", "memory MB"]
    rows = [[name, *_numbers([each])] for name, each in figures.items()]
    rows.append(["all", *_numbers(list(figures.values()))])
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    aligned = [
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in (titles, *rows))
    ]
    return "\n".join(aligned)


def _numbers(figures: list[Figures]) -> list[str]:
    outcomes = sum((each.outcomes for each in figures), Counter())
    slowest = max((each.slowest for each in figures), default=0.0)
    largest = max((each.largest_bytes for each in figures), default=0)
    counts = [outcomes.total(), *(outcomes[column] for column in COLUMNS)]
    return [*(f"{count:,}" for count in counts), f"{slowest:.2f}", f"{largest / 1e6:.0f}"]
