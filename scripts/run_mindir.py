"""Generate text with an exported model; see --help."""

import sys

from mindspore_paged.launch.keeper import kept


def run() -> int:
    from mindspore_paged.cli import main  # what takes time to import is imported where signals are heard

    return main(of_mindir=True)


if __name__ == "__main__":
    sys.exit(kept(run))
