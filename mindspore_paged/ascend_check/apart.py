"""Runs a group's checks in a process of its own, and in a fresh one behind each that fails."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mindspore_paged.ascend_check.child import BEGUN, FAILED, FOUND, START
from mindspore_paged.ascend_check.device_log import log_files
from mindspore_paged.ascend_check.groups import BUILT_IN_TIMES, Target
from mindspore_paged.ascend_check.report import Finding

SECONDS = 900
"""Longest silence: the first check of a process compiles MindSpore's wrapper of its operator."""
SECONDS_TO_END = 30


@dataclass
class Heard:
    """What a process told: the checks that it began, what it found, and why it stopped, if before its end."""

    pid: int
    begun: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failed: str = ""
    is_complete: bool = False


def run_group(group: str, target: Target, report: Callable[[str], None], seconds: float = SECONDS) -> Iterator[Finding]:
    """Give a group's findings; a check that fails is one that says why, and the next is made by a fresh process.

    `report` is told where it stopped, and where the driver's log of that process is.
    """
    first = 0
    while True:
        heard = run_process(group, first, target, seconds)
        yield from heard.findings
        if not heard.failed:
            return
        operator, shape = heard.begun[-1] if heard.begun else (START, f"group {group}")
        where = f"; the driver's log: {log_files(heard.pid)}" if target.is_on_npu else ""
        report(f"stopped in group {group}, at {operator} {shape}: {heard.failed}{where}")
        # That MindSpore's own operators fail is no fault of what is checked.
        why = {"built_in": f"failed: {heard.failed}"} if group == BUILT_IN_TIMES else {"failed": heard.failed}
        yield Finding(operator, f"{group}: {shape}", "", **why)
        if operator == START:
            return  # another process would not come further
        first += len(heard.begun)


def run_process(group: str, first: int, target: Target, seconds: float) -> Heard:
    """Run the checks from number `first` on, up to the first that fails, hangs or ends the process."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "mindspore_paged.ascend_check.child", group, str(first), str(writer)]
    command += [target.backend, str(target.repeats), *([str(target.library)] if target.library else [])]
    environment = {"GLOG_v": "3", **os.environ}
    with tempfile.TemporaryFile() as said, os.fdopen(reader, "rb", buffering=0) as pipe:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, pass_fds=(writer,))
        os.close(writer)
        heard, in_time = Heard(process.pid), False
        try:
            in_time = _listen(pipe, heard, seconds)
        finally:
            _end(process, SECONDS_TO_END if in_time else 0)
        if not in_time:
            heard.failed = f"no answer within {seconds:.0f} s"
        elif not heard.is_complete and not heard.failed:
            heard.failed = _end_of(process.returncode, said)
    return heard


def _listen(pipe, heard: Heard, seconds: float) -> bool:
    """Take in what is told until the pipe closes; whether it never was silent for too long."""
    poll, rest = select.poll(), b""
    poll.register(pipe, select.POLLIN)
    last = time.monotonic()
    while time.monotonic() < last + seconds:
        if not poll.poll(1e3 * max(0, last + seconds - time.monotonic())):
            continue
        received = pipe.read(65536)
        if not received:
            return True
        last = time.monotonic()
        *lines, rest = (rest + received).split(b"\n")
        for line in map(json.loads, lines):
            if BEGUN in line:
                heard.begun.append(tuple(line[BEGUN]))
            elif FOUND in line:
                heard.findings.append(Finding(**line[FOUND]))
            elif FAILED in line:
                heard.failed = line[FAILED]
            else:
                heard.is_complete = True
    return False


def _end(process: subprocess.Popen, seconds: float) -> None:
    """Wait for a process that has nothing more to tell; end it if it does not end by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_of(code: int, said) -> str:
    """How a process ended that told of no failure, with the last line that it said."""
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how}{f': {lines[-1].strip()[:200]}' if lines else ''}"
