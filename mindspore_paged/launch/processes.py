"""What the supervisor and the workers ask of Linux: who our parent is, and to die with it."""

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_TRUE_WORDS = ("true", "1", "yes", "t", "y")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; does nothing where that is not to be had."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def parent_waits() -> bool:
    """Whether our parent is an msrun that was told to wait for its processes: then its end must be ours as well."""
    words = _words(os.getppid(), "cmdline")
    if not any(os.path.basename(word) == "msrun" for word in words):
        return False
    joins = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word == "--join"]
    joins += [word.removeprefix("--join=") for word in words if word.startswith("--join=")]
    return bool(joins) and joins[-1].lower() in _TRUE_WORDS


def workers_of(parent: int, scheduler_port: str) -> list[int] | None:
    """The live workers of a job among the processes that `parent` started; None where /proc does not say."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return None
    marks = {"MS_ROLE=MS_WORKER", f"MS_SCHED_PORT={scheduler_port}"}
    return [int(child) for child in children if marks <= set(_words(int(child), "environ"))]


def kill(process: int) -> None:
    """Kill a process; it may have ended already."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _words(process: int, file: str) -> list[str]:
    try:
        return Path(f"/proc/{process}/{file}").read_text(errors="replace").split("\0")
    except OSError:  # it ended just now
        return []
