"""What every script does around its work: one line and an exit code instead of a traceback."""

import sys
from collections.abc import Callable

from mindspore_paged.errors import PagedError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def exit_code_of(work: Callable[[], int | None]) -> int:
    """Do the work and return its exit code (None is 0); 2, and one line on stderr, for what a user can put right."""
    try:
        return work() or 0
    except (PagedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
