"""Fetch the demo model into a cache folder, verify it, and print its path on the last line."""

import argparse
import sys

from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of
from mindspore_paged.weights.demo_model import CACHE_VARIABLE, fetch_demo_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache-dir", help=f"where the model is kept (default: ${CACHE_VARIABLE}, or ~/.cache/mindspore_paged)"
    )
    arguments = parser.parse_args()
    return exit_code_of(lambda: print(fetch_demo_model(arguments.cache_dir)))


if __name__ == "__main__":
    sys.exit(kept(main))
