"""Serve a model by HTTP; see --help."""

import sys

from mindspore_paged.launch.keeper import kept


def run() -> int:
    from mindspore_paged.serving.run import main  # what takes time to import is imported where signals are heard

    return main()


if __name__ == "__main__":
    sys.exit(kept(run))
