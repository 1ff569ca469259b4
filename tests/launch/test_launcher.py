"""scripts/msrun_launcher.sh: what it refuses, and what it makes msrun do (an msrun that only says what it was told)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest

from mindspore_paged.launch.ports import free_ports
from tests.launch.jobs import REPOSITORY, environment, left_over

LAUNCHER = REPOSITORY / "scripts" / "msrun_launcher.sh"

FAKE_MSRUN = f"""#!{sys.executable}
import json, os, pathlib, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
names = ("MINDSPORE_PAGED_CONTROL_PORT", "MS_NODE_TIMEOUT", "OMP_NUM_THREADS", "PYTHONUNBUFFERED", "PATH")
said = dict(argv=sys.argv[1:], options=options, environment={{name: os.environ.get(name) for name in names}})
pathlib.Path(os.environ["SAID"]).write_text(json.dumps(said))
exec(os.environ.get("MSRUN_DOES", ""))
"""


class Launch:
    """Runs the launcher in a folder with a script `job.py`, and an msrun of the test's own."""

    def __init__(self, folder):
        self.folder, self.said = folder, folder / "said.json"
        self.mark = uuid.uuid4().hex
        bin_folder = folder / "env" / "bin"
        bin_folder.mkdir(parents=True)
        (bin_folder / "msrun").write_text(FAKE_MSRUN)
        (bin_folder / "msrun").chmod(0o755)
        (bin_folder / "python").symlink_to(sys.executable)
        (folder / "job.py").write_text("")

    def start(self, *arguments, does="", **variables):
        shared = environment(self.mark) | {"VIRTUAL_ENV": str(self.folder / "env"), "SAID": str(self.said)}
        for name in ("OMP_NUM_THREADS", "MINDSPORE_PAGED_CONTROL_PORT"):
            shared.pop(name, None)
        return subprocess.Popen(
            ["bash", str(LAUNCHER), *map(str, arguments)],
            cwd=self.folder,
            env=shared | {"MSRUN_DOES": does} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_all_signals,
        )

    def run(self, *arguments, **options):
        """Exit code, stdout, stderr and what msrun was told (None: it was not called)."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err, json.loads(self.said.read_text()) if self.said.exists() else None


def hear_all_signals():
    """A shell cannot trap what is ignored where it starts, as SIGHUP is under nohup."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def launch(tmp_path):
    launch = Launch(tmp_path)
    yield launch
    assert left_over(launch.mark) == []


def test_help_teaches_one_and_two_nodes(launch):
    code, out, _, said = launch.run("--help")
    assert (code, said) == (0, None)
    assert "One node" in out
    assert "NODE_RANK 1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "0 arguments are given; 1, 2, 6 or 9 are allowed"),
        (["job.py", 2, 8118], "3 arguments are given"),
        (["job.py", "two"], "WORKER_NUM is 'two'; it must be an integer from 1"),
        (["job.py", 0], "WORKER_NUM is '0'"),
        (["job.py", "2; true"], "WORKER_NUM is '2; true'"),
        (["nowhere.py", 2], "no script 'nowhere.py'"),
        (["", 2], "the script is empty"),
        (["job.py 'open", 2], "is a quote left open?"),
        (["job.py", 2, 0, "logs", "True", 60], "MASTER_PORT is '0'"),
        (["job.py", 2, 65535, "logs", "True", 60], "MASTER_PORT is '65535'; it must be an integer from 1 to 65534"),
        (["job.py", 2, "http", "logs", "True", 60], "MASTER_PORT is 'http'"),
        (["job.py", 2, 8118, "logs", "yes", 60], "JOIN is 'yes'; it must be True or False"),
        (["job.py", 2, 8118, "logs", "True", "soon"], "CLUSTER_TIME_OUT is 'soon'"),
        (["job.py", 2, 8118, "", "True", 60], "LOG_DIR is empty"),
        (["job.py", 8, 3, "10.0.0.1", 8118, 0, "logs", "True", 60], "each node must have the same number of ranks"),
        (["job.py", 8, 9, "10.0.0.1", 8118, 0, "logs", "True", 60], "LOCAL_WORKER is '9'"),
        (
            ["job.py", 8, 4, "10.0.0.1", 8118, 2, "logs", "True", 60],
            "NODE_RANK is '2'; it must be an integer from 0",
        ),
        (["job.py", 8, 4, "", 8118, 1, "logs", "True", 60], "MASTER_ADDR is empty"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(launch, arguments, message):
    code, out, err, said = launch.run(*arguments)
    assert (code, out, said) == (2, "", None)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_one_node_gets_free_ports_and_its_share_of_the_cores(launch):
    code, _, err, said = launch.run("job.py --config 'a b.yaml' --prompt \"it's $HOME `x`\" ''", 2)
    assert (code, err) == (0, "")
    assert said["argv"][-6:] == ["job.py", "--config", "a b.yaml", "--prompt", "it's $HOME `x`", ""]
    options, variables = said["options"], said["environment"]
    assert (options["worker_num"], options["local_worker_num"], options["join"]) == ("2", "2", "True")
    assert options["log_dir"] == "output/msrun_log"
    assert options["master_port"] != variables["MINDSPORE_PAGED_CONTROL_PORT"]
    assert variables["MS_NODE_TIMEOUT"] == "600"
    assert variables["OMP_NUM_THREADS"] == str(max(len(os.sched_getaffinity(0)) // 2, 1))
    assert variables["PYTHONUNBUFFERED"] == "1"
    assert variables["PATH"].split(":")[0] == str(launch.folder / "env" / "bin")


def test_a_script_alone_runs_on_eight(launch):
    assert launch.run("job.py")[3]["options"]["worker_num"] == "8"


def test_six_arguments_are_mindformers(launch):
    options = launch.run("job.py", 2, 8125, "my logs", "True", 60, OMP_NUM_THREADS="3")[3]
    assert options["options"]["master_port"] == "8125"
    assert options["options"]["log_dir"] == "my logs"
    assert options["options"]["cluster_time_out"] == "60"
    assert options["environment"]["OMP_NUM_THREADS"] == "3"


def test_nine_arguments_are_a_node_of_several(launch):
    said = launch.run("job.py", 8, 4, "10.0.0.1", 8125, 1, "logs", "True", 60)[3]
    assert {name: said["options"][name] for name in ("worker_num", "local_worker_num", "node_rank", "master_addr")} == {
        "worker_num": "8",
        "local_worker_num": "4",
        "node_rank": "1",
        "master_addr": "10.0.0.1",
    }
    assert said["environment"]["MINDSPORE_PAGED_CONTROL_PORT"] is None  # every node must arrive at the same one


FAIL = """
import time
log = pathlib.Path(options["log_dir"])
(log / "worker_0.log").write_text("text of rank 0\\n")
time.sleep(0.5)
(log / "scheduler.log").write_text("noise\\nerror: rank 1: no weights\\n")
print("Worker process 123 exit with exception. Error code: {code}.")
sys.exit(1)
"""


@pytest.mark.parametrize(("code", "exit_code"), [(2, 2), (-9, 1)])
def test_a_failure_shows_rank_0_one_line_and_where_the_logs_are(launch, code, exit_code):
    result, out, err, _ = launch.run("job.py", 2, does=FAIL.format(code=code))
    assert result == exit_code
    assert out == "text of rank 0\n"
    log = launch.folder / "output" / "msrun_log" / "worker_0.log"
    assert log.read_text() == "text of rank 0\nerror: rank 1: no weights\n"
    assert err == (
        "error: rank 1: no weights\n"
        f"the job failed with exit code {exit_code}; the output of every rank is in output/msrun_log/worker_*.log\n"
    )


def test_what_rank_0_printed_is_not_printed_again(launch):
    does = FAIL.format(code=1).replace("text of rank 0", "error: rank 1: no weights")
    _, out, err, _ = launch.run("job.py", 2, does=does)
    assert (out + err).count("error: rank 1") == 1


def test_without_a_verdict_msruns_last_line_is_shown(launch):
    code, _, err, _ = launch.run("job.py", 2, does="sys.exit('no such option')")
    assert code == 1
    assert err.startswith("error: no such option\n")


HOLD = """
import time
print("up", file=open(pathlib.Path(options["log_dir"]) / "worker_0.log", "w"), flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.05)
print("the answer", file=open(pathlib.Path(options["log_dir"]) / "worker_0.log", "a"), flush=True)
"""


@pytest.mark.parametrize("arguments", [["job.py", 2, "PORT", "logs"], ["job.py", 4, 2, "127.0.0.1", "PORT", 0, "logs"]])
def test_a_second_job_on_a_port_ends_at_once_and_the_first_goes_on(launch, arguments):
    (port,) = free_ports(1)
    arguments = [port if word == "PORT" else word for word in arguments]
    first = launch.start(*arguments, "True", 60, does=HOLD)
    assert first.stdout.readline() == "up\n"
    for join in ("True", "False"):
        code, out, err, _ = launch.run(*arguments, join, 60)
        assert (code, out) == (2, "")
        assert err == (
            f"error: port {port} is in use by another job of this machine; give another port, or end that job first\n"
        )
    (launch.folder / "go").touch()
    assert first.communicate(timeout=20) == ("the answer\n", "")
    assert first.returncode == 0
    assert launch.run(*arguments, "True", 60)[0] == 0


def test_the_port_of_any_other_program_is_named(launch):
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        code, out, err, said = launch.run("job.py", 2, port, "logs", "True", 60)
        assert (code, out, said) == (2, "", None)
        assert err == f"error: port {port} of 127.0.0.1 is in use by another program; give another port\n"
        # The next port is the supervisor's where there are several nodes.
        err = launch.run("job.py", 4, 2, "127.0.0.1", port - 1, 0, "logs", "True", 60)[2]
        assert f"port {port} of 127.0.0.1 is in use" in err
        # A node without the scheduler listens at neither.
        assert launch.run("job.py", 4, 2, "127.0.0.1", port, 1, "logs", "True", 60)[0] == 0


def test_a_port_can_be_used_again_when_its_job_was_killed(launch):
    (port,) = free_ports(1)
    arguments = ["job.py", 2, port, "logs", "True", 60]
    first = launch.start(*arguments, does=STAY.replace('"sleep", "100"', '"true"'))
    assert first.stdout.readline() == "up\n"
    first.kill()
    assert launch.run(*arguments)[0] == 0
    first.communicate(timeout=20)


def test_the_supervisors_port_must_be_another(launch):
    code, _, err, said = launch.run("job.py", 2, 8125, "logs", "True", 60, MINDSPORE_PAGED_CONTROL_PORT="8125")
    assert (code, err, said) == (2, "error: MINDSPORE_PAGED_CONTROL_PORT is 8125, and so is MASTER_PORT\n", None)


def test_old_logs_are_not_shown(launch):
    logs = launch.folder / "output" / "msrun_log"
    logs.mkdir(parents=True)
    (logs / "worker_0.log").write_text("of an older run\n")
    assert launch.run("job.py", 2)[1] == ""


STAY = """
import subprocess, time
subprocess.Popen(["sleep", "100"], start_new_session=True)
print("up", file=open(pathlib.Path(options["log_dir"]) / "worker_0.log", "w"), flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_nothing_behind(launch, number, code):
    process = launch.start("job.py", 2, does=STAY)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == code
    assert left_over(launch.mark) == []


SUPERVISED = """
import subprocess, sys, time
log = pathlib.Path(options["log_dir"])
code = '''
import pathlib, signal, sys
def end(number, _):
    pathlib.Path(sys.argv[1], "scheduler.log").write_text("interrupted by SIGINT: 2 of 3 requests were answered")
    sys.exit(130)
signal.signal(signal.SIGINT, end)
print("up", file=open(pathlib.Path(sys.argv[1]) / "worker_0.log", "w"), flush=True)
signal.pause()
'''
subprocess.run([sys.executable, "-c", code, log], env=os.environ | {"MS_ROLE": "MS_SCHED"})
time.sleep(ENDS_AFTER)
sys.exit(1)
"""


@pytest.mark.parametrize("seconds", ["0", "100"])
def test_what_the_supervisor_says_of_an_interruption_is_shown(launch, seconds):
    process = launch.start("job.py", 2, does=SUPERVISED.replace("ENDS_AFTER", seconds))
    assert process.stdout.readline() == "up\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "interrupted by SIGINT: 2 of 3 requests were answered\n")
    assert time.monotonic() - begin < 6


DRAINS = """
import subprocess, sys
log = pathlib.Path(options["log_dir"])
code = '''
import pathlib, signal, sys, time
def end(number, _):
    time.sleep(5)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1], "scheduler.log").write_text("a signal ends this job within 20 s")
print("up", file=open(pathlib.Path(sys.argv[1]) / "worker_0.log", "w"), flush=True)
signal.pause()
'''
sys.exit(subprocess.run([sys.executable, "-c", code, log], env=os.environ | {"MS_ROLE": "MS_SCHED"}).returncode)
"""


def test_a_job_that_has_asked_for_time_ends_by_itself(launch):
    process = launch.start("job.py", 2, does=DRAINS)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_msrun_is_told(launch, number):
    does = """
import signal, subprocess, sys, time
def end(*_):
    print("msrun process received SIGINT (Ctrl+C), terminating all workers.")
    sys.exit(0)
signal.signal(signal.SIGINT, end)
print(os.getpid(), file=open(pathlib.Path(options["log_dir"]) / "worker_0.log", "w"), flush=True)
time.sleep(100)
"""
    process = launch.start("job.py", 2, does=does)
    os.kill(int(process.stdout.readline()), number)
    _, err = process.communicate(timeout=20)
    line = f"interrupted by {number.name}: msrun was ended, and its ranks with it\n"
    assert (process.returncode, err) == (128 + number, line)


def test_msrun_does_not_outlive_a_launcher_that_is_killed(launch):
    process = launch.start("job.py", 2, does="import time\ntime.sleep(0)\n" + STAY.replace('"sleep", "100"', '"true"'))
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate(timeout=10)
    assert left_over(launch.mark) == []


def test_join_false_goes_on_in_the_background(launch):
    does = "import time; time.sleep(1); print('late', file=open(options['log_dir'] + '/worker_0.log', 'w'))"
    code, out, _, _ = launch.run("job.py", 2, 8125, "logs", "False", 60, does=does)
    assert code == 0
    assert "logs/launcher.log" in out
    deadline = time.monotonic() + 10
    while "late" not in (log := (launch.folder / "logs" / "launcher.log").read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.1)
    assert json.loads(launch.said.read_text())["options"]["join"] == "True"
