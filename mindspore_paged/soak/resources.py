"""What a process holds of the machine: memory, threads, files."""

import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """rss_mb: resident memory, in 10^6 bytes. threads: of the process, Python's or not. descriptors: open ones.

    python_threads: None of another process.
    """

    rss_mb: float
    threads: int
    python_threads: int | None
    descriptors: int


def resources_now() -> Resources:
    """Of this process, as Linux counts."""
    return replace(resources_of(os.getpid()), python_threads=threading.active_count())


def resources_of(process: int) -> Resources:
    """Of the process of that number, as Linux counts; raises OSError if there is none."""
    folder = Path("/proc") / str(process)
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text(encoding="utf-8").splitlines())
    return Resources(
        rss_mb=int(fields["VmRSS"].split()[0]) * 1024 / 1e6,
        threads=int(fields["Threads"]),
        python_threads=None,
        descriptors=len(os.listdir(folder / "fd")),
    )
