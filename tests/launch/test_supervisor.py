"""Supervisor and workers as processes, without msrun and MindSpore: what is printed, how each ends, what is left."""

import os
import signal
import socket
import time

import pytest

from mindspore_paged.launch.messages import encode
from tests.launch.jobs import left_over, start_job

STEP = 'supervision.report_state(12, states.IN_THE_GRAPH); time.sleep(0.8); print("there", flush=True)\n'
WAIT = STEP + "time.sleep(1000)"


@pytest.fixture
def start():
    jobs = []

    def start_and_remember(*texts, **options):
        jobs.append(start_job(*texts, **options))
        return jobs[-1]

    yield start_and_remember
    for job in jobs:
        job.kill()
        assert left_over(job.mark) == []


def await_there(worker):
    assert worker.stdout.readline() == "there\n"


def test_a_job_that_ends_well_ends_with_0_and_silence(start):
    job = start('print("done")', 'time.sleep(0.5); print("done")')
    assert job.wait()[:2] == (0, "")
    assert job.worker_ends() == [(0, "done\n")] * 2


def test_a_killed_worker_takes_the_job_down_with_its_name(start):
    job = start(WAIT, WAIT)
    for worker in job.workers:
        await_there(worker)
    os.kill(job.workers[1].pid, signal.SIGKILL)
    line = "error: rank 1 ended without a word, last seen at step 12 (in the graph)\n"
    code, output, seconds = job.wait()
    assert (code, output) == (1, line)
    assert seconds < 2
    assert job.worker_ends() == [(1, line), (-signal.SIGKILL, "")]


ENDS_BY_ITSELF = """
import threading
from mindspore_paged.launch import interruption
supervision.allow_interruptions()
asked = threading.Event()
with interruption.ends_by_itself(asked.set, 20.0):
    print("there", flush=True)
    asked.wait()
    time.sleep(4.0)
    print("done", flush=True)
"""
HELPS = 'supervision.allow_interruptions(); print("there", flush=True); time.sleep(8.0); print("done", flush=True)'


def test_a_worker_that_asked_for_time_ends_the_job_by_itself_and_the_others_help_it(start):
    job = start(ENDS_BY_ITSELF, HELPS)
    for worker in job.workers:
        await_there(worker)
    time.sleep(0.5)
    os.kill(job.supervisor.pid, signal.SIGTERM)
    code, output, _ = job.wait()
    assert (code, output) == (0, "a signal ends this job within 20 s\n")
    assert job.worker_ends() == [(0, "done\n")] * 2


def test_a_stopped_worker_is_named_and_killed(start):
    job = start(WAIT, WAIT)
    for worker in job.workers:
        await_there(worker)
    os.kill(job.workers[1].pid, signal.SIGSTOP)
    line = "error: rank 1 does not answer: no sign of life for 2 s, last seen at step 12 (in the graph)\n"
    code, output, seconds = job.wait()
    assert (code, output) == (1, line)
    assert seconds < 8
    assert job.worker_ends() == [(1, line), (-signal.SIGKILL, "")]


def test_an_exception_is_told_with_its_traceback_in_its_own_log_and_one_line_elsewhere(start):
    job = start(WAIT, 'time.sleep(0.5)\nraise ValueError("boom\\nand more")')
    code, output, _ = job.wait()
    assert (code, output) == (1, "error: rank 1: ValueError: boom\n")
    ends = job.worker_ends()
    assert [end[0] for end in ends] == [1, 1]
    assert ends[0][1].endswith("error: rank 1: ValueError: boom\n")
    assert "Traceback" in ends[1][1]
    assert ends[1][1].endswith("ValueError: boom\nand more\n")


def test_an_error_that_our_scripts_end_with_ends_all_with_its_exit_code(start):
    script = """
from mindspore_paged.errors import ConfigError
from mindspore_paged.script import exit_code_of
def work():
    raise ConfigError("no model")
sys.exit(exit_code_of(work))
"""
    job = start(WAIT, script)
    assert job.wait()[:2] == (2, "error: rank 1: ConfigError: no model\n")
    ends = job.worker_ends()
    assert ends[1] == (2, "error: no model\n")
    assert ends[0][0] == 2


def test_an_exit_code_alone_is_told_too(start):
    job = start(WAIT, "from mindspore_paged.script import exit_code_of\nsys.exit(exit_code_of(lambda: 3))")
    assert job.wait()[:2] == (3, "error: rank 1: the script ended with exit code 3\n")


def test_a_hang_is_found_while_every_process_beats(start):
    job = start(WAIT, "supervision.report_state(11, states.WAITING_FOR_PLAN); time.sleep(1000)")
    code, output, seconds = job.wait()
    assert code == 1
    assert output == (
        "error: rank 1 hangs: for 2 s at step 11 (waiting for the plan) while rank 0 is at step 12 (in the graph)\n"
    )
    assert seconds < 8
    assert [end[0] for end in job.worker_ends()] == [1, 1]


@pytest.mark.slow
def test_a_leader_that_idles_is_no_hang(start):
    job = start(
        "supervision.report_state(3, states.IDLE); time.sleep(3.5)",
        "supervision.report_state(3, states.WAITING_FOR_PLAN); time.sleep(3.5)",
    )
    assert job.wait()[:2] == (0, "")


def test_a_worker_that_leaves_may_end_as_it_likes(start):
    job = start("time.sleep(1)", "supervision.leave(); os._exit(0)")
    assert job.wait()[:2] == (0, "")


def test_ranks_find_what_others_published(start):
    listener = 'time.sleep(0.5); supervision.publish("leader", "10.0.0.1 4242 key")'
    seeker = 'print(supervision.lookup("leader")); print(supervision.lookup("leader", timeout=1))'
    job = start(listener + "; time.sleep(1)", seeker, seeker)
    assert job.wait()[:2] == (0, "")
    assert [end[1] for end in job.worker_ends()] == ["", *["10.0.0.1 4242 key\n" * 2] * 2]


@pytest.mark.slow
def test_what_nobody_publishes_is_not_waited_for_beyond_the_limit(start):
    job = start('supervision.lookup("nothing", timeout=0.5)')
    assert job.wait()[:2] == (1, "error: rank 0: TimeoutError: no rank published 'nothing' within 0.5 s\n")


@pytest.mark.slow
def test_a_message_may_come_in_pieces_and_strangers_do_not_matter(start):
    job = start("time.sleep(3)")
    with (
        connection(job.port) as stranger,
        connection(job.port) as silent,
        connection(job.port) as wrong_size,
        connection(job.port) as late_double,
    ):
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(100) == b""
        wrong_size.sendall(encode(rank=0, size=5))
        assert b"refused" in wrong_size.recv(1000)
        time.sleep(1.0)
        for byte in encode(rank=0, size=1):
            late_double.sendall(bytes([byte]))
            time.sleep(0.01)
        assert b"refused" in late_double.recv(1000)
        silent.sendall(b'{"rank"')
        assert job.wait()[:2] == (0, "")


def test_a_child_process_of_a_worker_is_no_worker(start):
    child = "import mindspore_paged.launch.supervision as s; s.report_state(1, 'x'); print('child')"
    job = start(f"import subprocess; subprocess.run([sys.executable, '-c', {child!r}], check=True)")
    assert job.wait()[:2] == (0, "")
    assert job.worker_ends() == [(0, "child\n")]


@pytest.mark.slow
def test_a_fork_of_a_worker_does_not_hide_its_end(start):
    job = start("time.sleep(1)\nif os.fork() == 0:\n    time.sleep(2.5)\n    os._exit(0)\nos.kill(os.getpid(), 9)")
    code, output, seconds = job.wait()
    assert (code, output.split(",")[0]) == (1, "error: rank 0 ended without a word")
    assert seconds < 3


def test_workers_do_not_outlive_their_supervisor(start):
    job = start(WAIT)
    await_there(job.workers[0])
    job.supervisor.kill()
    assert job.worker_ends() == [(1, "error: the job's supervisor has ended\n")]


def test_a_port_that_is_taken_ends_the_job(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = start(
            WAIT,
            supervisor=f"""
import os
from mindspore_paged.launch.supervisor import run_scheduler
os.environ["MINDSPORE_PAGED_CONTROL_PORT"] = "{port}"
os.environ["MS_ROLE"] = "MS_SCHED"
run_scheduler("")
""",
        )
        code, output, _ = job.wait()
        assert code == 1
        assert output == (
            f"error: the job's supervisor cannot start: it cannot listen on 127.0.0.1:{port}: Address already in use; "
            "give another port, or end the program that has it\n"
        )


SCRIPT = """
import ctypes
from mindspore_paged.launch import supervision
from mindspore_paged.launch.interruption import last_words
from mindspore_paged.launch.keeper import kept
def be_there():
    supervision.publish("there", "yes")
    supervision.lookup("there")  # the supervisor has answered: it is up, and knows us
    print("there", flush=True)
def say():
    print("saved", flush=True)
    return f"what rank {rank} did is saved"
def work():
    with last_words(say):
        be_there()
        time.sleep(100)
def hold_the_lock():
    be_there()
    ctypes.PyDLL(None).sleep(100)
"""
WORK, HOLD = SCRIPT + "sys.exit(kept(work))", SCRIPT + "sys.exit(kept(hold_the_lock))"


@pytest.mark.parametrize(("of_a_worker", "number"), [(False, signal.SIGINT), (True, signal.SIGTERM)])
def test_a_signal_to_any_process_of_a_job_ends_it_with_the_last_words_of_a_rank(start, of_a_worker, number):
    job = start(WORK, WAIT)
    for worker in job.workers:
        await_there(worker)
    (job.workers[0] if of_a_worker else job.supervisor).send_signal(number)
    code, output, seconds = job.wait()
    line = f"interrupted by {number.name}: what rank 0 did is saved\n"
    assert (code, output) == (128 + number, line)
    assert seconds < 5
    # A script of the user's own has no last words, and is ended.
    assert job.worker_ends() == [(128 + number, "saved\n"), (128 + number, line)]


def test_a_rank_that_lets_no_thread_run_ends_with_its_job_within_5_seconds(start):
    job = start(HOLD)
    await_there(job.workers[0])
    job.supervisor.send_signal(signal.SIGTERM)
    code, output, seconds = job.wait()
    assert (code, output) == (143, "interrupted by SIGTERM\n")
    assert seconds < 6
    job.workers[0].kill()  # msrun's supervisor kills its workers; here they are the test's


@pytest.mark.slow
def test_the_end_of_mindspores_scheduler_is_the_end_of_the_job(start):
    job = start(
        WAIT,
        supervisor="""
import os, sys
from mindspore_paged.launch.supervisor import run_scheduler
os.environ["MS_ROLE"] = "MS_SCHED"
run_scheduler("import sys, time; time.sleep(1); sys.exit(7)")
""",
    )
    assert job.wait()[:2] == (1, "error: MindSpore's scheduler ended with exit code 7\n")


def connection(port):
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
