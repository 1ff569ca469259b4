"""Generate text with an exported model; see --help."""

import sys

from mindspore_paged.cli import main

if __name__ == "__main__":
    sys.exit(main(of_mindir=True))
