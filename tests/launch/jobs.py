"""Small jobs of real processes: what msrun would start, with and without MindSpore, and what is left of them."""

import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from mindspore_paged.launch.ports import free_ports

REPOSITORY = Path(__file__).parents[2]
MARK = "MINDSPORE_PAGED_TEST_JOB"

SUPERVISOR = """
import os
from mindspore_paged.launch.judgement import Limits
from mindspore_paged.launch.supervisor import run_scheduler
os.environ["MS_ROLE"] = "MS_SCHED"
limits = Limits(silence=1.5, hang=2.0, orphans=2.0, exit=2.0)
run_scheduler("import time; time.sleep(1000)", limits)
"""

WORKER_BEGIN = """
import os, signal, sys, time
import mindspore_paged
from mindspore_paged.launch import states, supervision
from mindspore_paged.launch.worker import current_worker
rank = current_worker().rank
"""


@dataclass
class Job:
    """Processes that think msrun has started them: a supervisor, and a Python text for each worker."""

    supervisor: subprocess.Popen
    workers: list[subprocess.Popen]
    mark: str
    port: int

    def wait(self, seconds=25.0):
        """Exit code and output of the supervisor once it ends, and how long that took."""
        start = time.monotonic()
        output, _ = self.supervisor.communicate(timeout=seconds)
        return self.supervisor.returncode, output, time.monotonic() - start

    def worker_ends(self):
        """Exit code and output of each worker; all must end within seconds of the supervisor."""
        outputs = [worker.communicate(timeout=5)[0] for worker in self.workers]
        return [(worker.returncode, output) for worker, output in zip(self.workers, outputs, strict=True)]

    def kill(self):
        for process in (self.supervisor, *self.workers):
            process.kill()
            process.wait()
            process.stdout.close()


def start_job(*texts, supervisor=SUPERVISOR) -> Job:
    """A job with one worker for each Python text, which goes on after WORKER_BEGIN."""
    mark, port = uuid.uuid4().hex, free_port()
    shared = environment(mark) | {
        "MS_WORKER_NUM": str(len(texts)),
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": "1",
        "MINDSPORE_PAGED_CONTROL_PORT": str(port),
    }
    return Job(
        _python(supervisor, shared),
        [
            _python(WORKER_BEGIN + text, shared | {"MS_ROLE": "MS_WORKER", "RANK_ID": str(rank)})
            for rank, text in enumerate(texts)
        ],
        mark,
        port,
    )


def environment(mark) -> dict[str, str]:
    """This process's environment without msrun's part, with a mark that every process of a job inherits."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MS_") and name != "RANK_ID"}
    return kept | {MARK: mark, "PYTHONPATH": str(REPOSITORY), "VIRTUAL_ENV": sys.prefix}


def free_port() -> int:
    """A TCP port that nobody uses now."""
    return free_ports(1)[0]


def left_over(mark, seconds=3.0) -> list[str]:
    """The command lines of a job's processes that still live when those that are ending have had some time."""
    deadline = time.monotonic() + seconds
    while (found := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _marked(mark) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}" in (process / "environ").read_text(errors="replace").split("\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def _python(text, variables) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", text],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
