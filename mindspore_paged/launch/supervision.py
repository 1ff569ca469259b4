"""A worker's line to the job's supervisor: signs of life, what it is doing, its errors, and a board of names.

Nothing here does anything in a process that msrun did not start, except `lookup`, which only finds what this process
published. States are those of `mindspore_paged.launch.states`, or any short text.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence

from mindspore_paged.launch import interruption, processes, states
from mindspore_paged.launch.supervisor_line import SupervisorLine
from mindspore_paged.launch.worker import current_worker

# Children of a worker inherit msrun's environment, but are no workers: only the process that is named here is one.
_SUPERVISED_PROCESS = "MINDSPORE_PAGED_SUPERVISED_PROCESS"
_line: SupervisorLine | None = None
_board: dict[str, str] = {}


def start() -> None:
    """Connect to the supervisor, in the background, and report this process's end to it; once a process is enough."""
    global _line
    worker = current_worker()
    if not worker.supervised or os.environ.get(_SUPERVISED_PROCESS, str(os.getpid())) != str(os.getpid()):
        return
    os.environ[_SUPERVISED_PROCESS] = str(os.getpid())
    if processes.parent_waits():
        processes.die_with_parent()
    _line = SupervisorLine(worker)
    os.register_at_fork(after_in_child=_forget)
    sys.excepthook = _reporting(sys.excepthook)
    # The first to register is the last to be called: goodbye comes after MindSpore's own farewells.
    atexit.register(_leave_for_good)
    _line.open()


def report_state(step: int, state: str) -> None:
    """Say what this rank does now; cheap, so that it can be called several times a step.

    A step begins with its graph: a rank that waits for step 13 is "at step 12 (waiting for the plan)". Rank 0, or the
    group's leader, is "idle" whenever it is outside a step.
    """
    if _line is not None:
        _line.report(step, state)


def report_compiling() -> None:
    """Say that this rank compiles, in the step where it is: MindSpore may give no other thread a turn for long."""
    if _line is not None:
        _line.report(_line.step, states.COMPILING)


def report_group(ranks: Sequence[int]) -> None:
    """Say with which ranks this one computes in step, the leader first; without a word it is all, led by rank 0."""
    if _line is not None:
        _line.join(ranks)


def fail(message: str, exit_code: int = 1) -> None:
    """Say why this rank cannot go on: the supervisor prints it once and ends every process of the job.

    Returns when the supervisor knows; what is printed right afterwards still gets out. Print the error before.
    """
    if _line is not None:
        _line.fail(message, exit_code)


def allow_interruptions() -> None:
    """Let signals end this process's script, by way of the supervisor; see `interruption`."""
    if _line is not None:
        interruption.begin(_line.pass_on, _line.say, _line.ask_for_time)


def leave() -> None:
    """Say that this rank is done and that the end of its process is no fault; also said when the interpreter ends."""
    if _line is not None:
        _line.leave(exiting=False)


def publish(name: str, value: str) -> None:
    """Put a value on the board where every rank can look it up; the last value of a name stays."""
    if _line is None:
        _board[name] = value
    else:
        _line.publish(name, value)


def lookup(name: str, timeout: float = 600.0) -> str:
    """The value that some rank published under this name, waiting for it at most `timeout` seconds, or TimeoutError."""
    if _line is not None:
        return _line.lookup(name, timeout)
    if name not in _board:
        raise TimeoutError(f"nothing was published as {name!r}, and this process has no other ranks to wait for")
    return _board[name]


def _leave_for_good() -> None:
    if _line is not None:
        _line.leave(exiting=True)


def _forget() -> None:
    # A fork must not hold the connection open: its end is how the supervisor sees that the worker has ended.
    global _line
    if _line is not None:
        _line.drop()
        _line = None


def _reporting(hook: Callable) -> Callable:
    def report(kind, error, trace):
        hook(kind, error, trace)
        first_line = str(error).strip().partition("\n")[0]
        fail(f"{kind.__name__}: {first_line}" if first_line else kind.__name__)

    return report
