"""What the supervisor and the workers ask of Linux: who our parent is, and to die with it."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TRUE_WORDS = ("true", "1", "yes", "t", "y")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; does nothing where that is not to be had."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of what its children leave behind; nothing where it cannot."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_children() -> None:
    """Kill all children of this process, and what they leave behind if this process adopts orphans."""
    while children := _children(os.getpid()):
        for child in children:
            kill(int(child))
            with suppress(ChildProcessError):
                os.waitpid(int(child), 0)


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
    children = _children(parent)
    if children is None:
        return None
    marks = {"MS_ROLE=MS_WORKER", f"MS_SCHED_PORT={scheduler_port}"}
    return [int(child) for child in children if marks <= set(_words(int(child), "environ"))]


def kill(process: int) -> None:
    """Kill a process; it may have ended already."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _children(process: int) -> list[str] | None:
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return None


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _words(process: int, file: str) -> list[str]:
    try:
        return Path(f"/proc/{process}/{file}").read_text(errors="replace").split("\0")
    except OSError:  # it ended just now
        return []
