"""Ends by a signal of scripts that do what MindSpore does: hold Python's lock, replace the handler of SIGINT."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from tests.launch.jobs import environment, left_over

BEGIN = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from mindspore_paged.files import scratch_folder, whole_file
from mindspore_paged.launch.interruption import last_words
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

def up():
    print("up", flush=True)
    time.sleep(100)

def hold_the_lock():
    library = ctypes.PyDLL(None)  # whose calls keep Python's lock
    sys.setswitchinterval(1000)  # nor is it taken between the two
    library.write(1, b"up\\n", 3)
    library.sleep(100)

def work():
"""
END = """
sys.exit(kept(lambda: exit_code_of(work)))
"""


class Script:
    """A script whose work is a Python text, run as a process."""

    def __init__(self, folder, mark):
        self.folder, self.mark = folder, mark

    def start(self, work, **options):
        text = BEGIN + "".join(f"    {line}\n" for line in work.splitlines()) + END
        return subprocess.Popen(
            [sys.executable, "-c", text],
            cwd=self.folder,
            env=environment(self.mark),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def end(self, work, *numbers, apart=0.0, **options):
        """Exit code, stdout after the first line, stderr and seconds, of a script that gets signals once it is up."""
        process = self.start(work, **options)
        assert process.stdout.readline() == "up\n"
        begin = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(apart)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err, time.monotonic() - begin


@pytest.fixture
def script(tmp_path):
    script = Script(tmp_path, uuid.uuid4().hex)
    yield script
    assert left_over(script.mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_script_in_one_line(script, number):
    code, out, err, seconds = script.end("up()", number)
    assert (code, out, err) == (128 + number, "", f"interrupted by {number.name}\n")
    assert seconds < 3


def test_where_no_thread_of_python_runs_the_end_comes_within_5_seconds(script):
    code, _, err, seconds = script.end("hold_the_lock()", signal.SIGTERM)
    assert (code, err) == (143, "interrupted by SIGTERM\n")
    assert 3 < seconds < 5


def test_the_second_signal_ends_a_script_at_once(script):
    code, _, err, seconds = script.end("hold_the_lock()", signal.SIGINT, signal.SIGINT, apart=0.2)
    assert (code, err) == (130, "interrupted by SIGINT\n")
    assert seconds < 2


def test_a_handler_that_makes_another_signal_of_it_changes_nothing(script):
    work = "signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))\nup()"
    group = {"start_new_session": True}
    process = script.start(work, **group)
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to keeper and child
    assert process.communicate(timeout=20) == ("", "interrupted by SIGINT\n")
    assert process.returncode == 130


def test_a_signal_to_the_process_that_works_ends_it_too(script):
    process = script.start("print(os.getpid(), flush=True)\ntime.sleep(100)")
    os.kill(int(process.stdout.readline()), signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "interrupted by SIGTERM\n")
    assert process.returncode == 143


def test_last_words_are_said_while_the_work_goes_on_and_told_in_the_line(script):
    work = """
def say():
    print("saved", flush=True)
    return "2 of 3 were done"
with last_words(say):
    up()"""
    code, out, err, _ = script.end(work.strip(), signal.SIGINT)
    assert (code, out, err) == (130, "saved\n", "interrupted by SIGINT: 2 of 3 were done\n")


SERVER = """
import threading
from mindspore_paged.launch.interruption import ends_by_itself
asked = threading.Event()
with ends_by_itself(asked.set, SECONDS):
    print("up", flush=True)
    asked.wait()
    time.sleep(4)  # longer than a script without it may take
print("done")
return CODE"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_script_that_ends_by_itself_is_given_the_time(script, code):
    work = SERVER.replace("SECONDS", "20").replace("CODE", str(code)).strip()
    ended, out, err, seconds = script.end(work, signal.SIGTERM)
    assert (ended, out, err) == ((0, "done\n", "") if code == 0 else (143, "done\n", "interrupted by SIGTERM\n"))
    assert 3.5 < seconds < 10


def test_it_is_ended_when_the_time_is_over_and_at_the_second_signal(script):
    work = SERVER.replace("SECONDS", "1").strip()
    assert script.end(work, signal.SIGTERM)[:3] == (143, "", "interrupted by SIGTERM\n")
    work = SERVER.replace("SECONDS", "20").strip()
    code, out, err, seconds = script.end(work, signal.SIGTERM, signal.SIGTERM, apart=0.3)
    assert (code, out, err) == (143, "", "interrupted by SIGTERM\n")
    assert seconds < 2


def test_last_words_that_a_full_disk_refuses_are_told(script):
    work = "with last_words(lambda: Path('/dev/full').write_text('x')):\n    up()"
    code, _, err, _ = script.end(work, signal.SIGINT)
    assert code == 130
    assert err == "interrupted by SIGINT: [Errno 28] No space left on device\n"


def test_half_files_and_scratch_folders_are_gone(script):
    work = """
with whole_file("out.json") as unfinished, scratch_folder(beside=Path("here").absolute()) as scratch:
    unfinished.write_text("half")
    (scratch / "part").write_text("half")
    assert len(os.listdir(".")) == 2
    up()"""
    assert script.end(work.strip(), signal.SIGTERM)[0] == 143
    assert list(script.folder.iterdir()) == []


def test_children_are_no_orphans(script):
    work = "subprocess.Popen(['sh', '-c', 'sleep 100 & sleep 100'], stdout=subprocess.DEVNULL)\nup()"
    assert script.end(work, signal.SIGTERM)[0] == 143  # the fixture looks for what is left


def test_a_keeper_that_is_killed_takes_the_work_with_it(script):
    assert script.end("hold_the_lock()", signal.SIGKILL)[0] == -signal.SIGKILL


@pytest.mark.parametrize(("work", "code"), [("return 0", 0), ("return 3", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_a_script_ends_as_its_work_ends(script, work, code):
    process = script.start(f"print('done')\n{work}")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, "")
    assert out in ("done\n", "")


def test_a_script_that_a_shell_has_ignore_ctrl_c_ignores_it_but_not_a_signal_sent_to_it(script):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    code, _, err, _ = script.end("up()", signal.SIGINT, **ignore)
    assert (code, err) == (130, "interrupted by SIGINT\n")


def test_who_imports_the_package_keeps_the_handlers_that_he_has():
    text = "import signal as s, mindspore_paged as m; m.SamplingParams; print(s.getsignal(2) is s.default_int_handler)"
    text += "; print(s.getsignal(15) is s.SIG_DFL, s.pthread_sigmask(s.SIG_BLOCK, []))"
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, env=environment("none"), capture_output=True, text=True, check=True)
    assert done.stdout == "True\nTrue set()\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_that_are_closed_are_taken_by_no_other_file(script, closed):
    work = (
        "file = open('new', 'w')\nassert file.fileno() > 2\nprint('lost', flush=True)\nprint('lost', file=sys.stderr)"
    )
    text = BEGIN + "".join(f"    {line}\n" for line in work.splitlines()) + END
    (script.folder / "script.py").write_text(text)
    command = f"{sys.executable} script.py {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=script.folder, env=environment(script.mark), check=False)
    assert done.returncode == 0
    assert (script.folder / "new").read_text() == ""


@pytest.mark.parametrize(
    ("target", "code", "line"),
    [
        (">/dev/full", 2, "error: [Errno 28] No space left on device: 'stdout'\n"),
        ("| head -n 1 >&2; exit ${PIPESTATUS[0]}", 141, "line\n"),
    ],
)
def test_a_stdout_that_takes_no_more_is_one_line_or_silence(script, target, code, line):
    (script.folder / "script.py").write_text(BEGIN + "    for _ in range(100_000):\n        print('line')" + END)
    command = f"{sys.executable} script.py {target}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=script.folder,
        env=environment(script.mark),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line)
