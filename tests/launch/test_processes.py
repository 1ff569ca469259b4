import os
import signal
import subprocess
import sys

import pytest

from mindspore_paged.launch import processes
from tests.launch.jobs import environment

ASK = "from mindspore_paged.launch.processes import parent_waits; print(parent_waits())"


@pytest.mark.parametrize(
    ("name", "arguments", "waits"),
    [
        ("msrun", ["--worker_num=2", "--join=True", "job.py"], True),
        ("msrun", ["--join", "True", "job.py"], True),
        ("msrun", ["--join=False", "job.py"], False),
        ("msrun", ["job.py"], False),  # msrun's own default: it ends at once, and its workers must not
        ("make", ["--join=True"], False),
    ],
)
def test_only_an_msrun_that_joins_is_a_parent_to_die_with(tmp_path, name, arguments, waits):
    program = tmp_path / name
    program.write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}], check=True)")
    command = [sys.executable, str(program), *arguments]
    result = subprocess.run(command, env=environment("none"), capture_output=True, text=True, check=True)
    assert result.stdout == f"{waits}\n"


def test_a_process_dies_with_its_parent():
    child = "from mindspore_paged.launch.processes import die_with_parent as d; d(); print(1, flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        env=environment("none"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"1\n"
        process.kill()
        assert process.stdout.read() == b""  # the child had it open: it has ended, though its input has not


def test_workers_of_a_job_are_told_from_other_children():
    def child(**variables):
        return subprocess.Popen(["sleep", "60"], env=os.environ | variables)

    mine = child(MS_ROLE="MS_WORKER", MS_SCHED_PORT="8118")
    others = [
        child(),
        child(MS_ROLE="MS_WORKER", MS_SCHED_PORT="8120"),
        child(MS_ROLE="MS_SCHED", MS_SCHED_PORT="8118"),
    ]
    assert processes.workers_of(os.getpid(), "8118") == [mine.pid]
    processes.kill(mine.pid)
    assert mine.wait() == -signal.SIGKILL
    assert processes.workers_of(os.getpid(), "8118") == []
    processes.kill(mine.pid)  # which has ended: no error
    for other in others:
        other.kill()
        other.wait()
