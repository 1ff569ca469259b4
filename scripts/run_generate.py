"""Generate text from the command line; see --help."""

import sys

from mindspore_paged.launch.keeper import kept


def run() -> int:
    from mindspore_paged.cli import main  # what takes time to import is imported where signals are heard

    return main()


if __name__ == "__main__":
    sys.exit(kept(run))
