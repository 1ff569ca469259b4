"""What every script does around its work: one line and an exit code instead of a traceback."""

import errno
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from mindspore_paged.errors import PagedError
from mindspore_paged.launch import supervision

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
EXIT_NOBODY_READS = 141  # 128 and the number of SIGPIPE
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def exit_code_of(work: Callable[[], int | None]) -> int:
    """Do the work and return its exit code (None is 0); 2, and one line on stderr, for what a user can put right.

    141, in silence, where nobody reads stdout any more. Under msrun the supervisor hears of every code but 0, and ends
    the job's other processes with the same code. An end by a signal does not come by here, see `launch.interruption`.
    """
    exit_code, reason = _outcome(work)
    if exit_code:
        supervision.fail(reason or f"the script ended with exit code {exit_code}", exit_code)
    return exit_code


def _outcome(work: Callable[[], int | None]) -> tuple[int, str]:
    try:
        exit_code = work() or 0
        sys.stdout.flush()  # here a full disk can be told; at the interpreter's end it cannot
        return exit_code, ""
    except (PagedError, OSError) as error:
        if isinstance(error, OSError) and _is_of_stdout(error):
            _let_stdout_go()
            if error.errno == errno.EPIPE:
                return EXIT_NOBODY_READS, "nobody reads stdout any more"
            error = OSError(error.errno, error.strerror, "stdout")
        _say(f"error: {error}")
        return EXIT_BAD_INPUT, f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED, "interrupted"


def _is_of_stdout(error: OSError) -> bool:
    """Whether the error is one of printing: it names no file, as those of all files that we write do."""
    if error.filename is not None:
        return False
    if error.errno != errno.EPIPE:  # which the sockets of other ranks know too
        return error.errno in _FULL
    readers = select.poll()
    with suppress(OSError, ValueError):  # a stdout that is no file
        readers.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in readers.poll(0))


def _let_stdout_go() -> None:
    """Have nothing more go to stdout: at its end Python would complain again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # where nobody hears, the exit code tells
        print(line, file=sys.stderr, flush=True)
