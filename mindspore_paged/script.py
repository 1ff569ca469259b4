"""What every script does around its work: one line and an exit code instead of a traceback."""

import sys
from collections.abc import Callable

from mindspore_paged.errors import PagedError
from mindspore_paged.launch import supervision

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def exit_code_of(work: Callable[[], int | None]) -> int:
    """Do the work and return its exit code (None is 0); 2, and one line on stderr, for what a user can put right.

    Under msrun the supervisor hears of every code but 0, and ends the job's other processes with the same code.
    """
    try:
        exit_code, reason = work() or 0, ""
    except (PagedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        exit_code, reason = EXIT_BAD_INPUT, f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        exit_code, reason = EXIT_INTERRUPTED, "interrupted"
    if exit_code:
        supervision.fail(reason or f"the script ended with exit code {exit_code}", exit_code)
    return exit_code
