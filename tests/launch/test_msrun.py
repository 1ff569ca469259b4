"""The launcher, msrun, MindSpore's communicator and our supervision together, with each thing that can go wrong."""

import os
import signal
import subprocess
import time
import uuid

import pytest

from tests.launch.jobs import REPOSITORY, environment, left_over

pytestmark = pytest.mark.slow

SCRIPT = '''
"""Twenty sums over two ranks; rank 1 meets its fate at the tenth."""
import os, signal, sys, time
fate = sys.argv[1]
if fate == "no import" and os.environ["MS_ROLE"] == "MS_WORKER" and os.environ["RANK_ID"] == "1":
    raise ImportError("before mindspore_paged")

import mindspore_paged
from mindspore_paged.launch import states, supervision
from mindspore_paged.launch.worker import current_worker

rank = current_worker().rank
if fate == "raise" and rank == 1:
    raise ValueError("before init")

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.communication import init

ms.set_context(mode=ms.GRAPH_MODE)
init()


class Sum(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x):
        return self.all_reduce(x)


total = Sum()
for step in range(1, 21):
    supervision.report_state(step, states.IN_THE_GRAPH)
    result = total(ms.Tensor(np.full((2, 2), rank + 1, np.float32))).asnumpy()
    supervision.report_state(step, states.WAITING_FOR_PLAN if rank else states.IDLE)
    if step == 10 and rank == 1:
        time.sleep(1)
        print("fate", time.time(), flush=True)
        if fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fate == "exit":
            sys.exit(5)
        if fate == "hang":
            time.sleep(1000)
print("the sum is", result[0, 0], flush=True)
'''


@pytest.fixture
def launch(tmp_path):
    mark = uuid.uuid4().hex
    (tmp_path / "job.py").write_text(SCRIPT)

    def start(fate):
        return subprocess.Popen(
            ["bash", str(REPOSITORY / "scripts" / "msrun_launcher.sh"), f"job.py '{fate}'", "2"],
            cwd=tmp_path,
            env=environment(mark),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield start
    assert left_over(mark) == []


def run(launch, fate):
    process = launch(fate)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output, time.time()


def fate_of_rank_1(folder):
    words = [line.split() for line in log_of(folder, 1).splitlines() if line.startswith("fate ")]
    return float(words[0][1])


def log_of(folder, rank):
    return (folder / "output" / "msrun_log" / f"worker_{rank}.log").read_text()


def test_a_job_that_ends_well(launch):
    code, output, _ = run(launch, "none")
    assert code == 0
    assert "the sum is 3.0\n" in output
    assert "error" not in output


@pytest.mark.parametrize(
    ("fate", "line"),
    [
        ("kill", "error: rank 1 ended without a word, last seen at step 10 (waiting for the plan)"),
        (
            "stop",
            "error: rank 1 does not answer: no sign of life for 10 s, last seen at step 10 (waiting for the plan)",
        ),
        (
            "hang",
            "error: rank 1 hangs: for 20 s at step 10 (waiting for the plan) while rank 0 is at step 11 (in the graph)",
        ),
    ],
)
def test_a_fate_in_the_midst_of_work_ends_the_job_in_30_seconds(launch, tmp_path, fate, line):
    code, output, ended = run(launch, fate)
    assert code == 1
    assert output.count(line + "\n") == 1
    assert "output/msrun_log/worker_*.log" in output
    for rank in range(2):
        assert log_of(tmp_path, rank).count(line + "\n") == 1
    assert ended - fate_of_rank_1(tmp_path) < 30


def test_a_rank_that_exits_with_a_code_is_named(launch, tmp_path):
    code, output, ended = run(launch, "exit")
    assert code == 5
    assert output.count("error: rank 1 ended before the others") == 1
    assert ended - fate_of_rank_1(tmp_path) < 30


def test_an_exception_before_the_communicator_is_up(launch, tmp_path):
    code, output, _ = run(launch, "raise")
    assert code == 1
    assert output.count("error: rank 1: ValueError: before init\n") == 1
    assert "Traceback" in log_of(tmp_path, 1)


def test_an_exception_before_the_package_is_imported(launch, tmp_path):
    code, output, _ = run(launch, "no import")
    assert code == 1
    assert "rank 1 never connected" in output
    assert "ImportError: before mindspore_paged" in log_of(tmp_path, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_launcher_leaves_nothing_behind(launch, tmp_path, number):
    process = launch("hang")
    log = tmp_path / "output" / "msrun_log" / "worker_1.log"
    deadline = time.monotonic() + 90
    while not (log.exists() and "fate" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, number)
    process.communicate(timeout=20)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
