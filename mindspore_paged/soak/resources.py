"""What a process holds of the machine: memory, threads, files."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """rss_mb: resident memory, in 10^6 bytes. threads: of the process, Python's or not. descriptors: open ones."""

    rss_mb: float
    threads: int
    python_threads: int
    descriptors: int


def resources_now() -> Resources:
    """Of this process, as Linux counts."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return Resources(
        rss_mb=int(fields["VmRSS"].split()[0]) * 1024 / 1e6,
        threads=int(fields["Threads"]),
        python_threads=threading.active_count(),
        descriptors=len(os.listdir("/proc/self/fd")),
    )
