"""Fetch the demo model into a cache folder, verify it, and print its path on the last line."""

import argparse
import sys

from mindspore_paged.errors import PagedError
from mindspore_paged.weights.demo_model import CACHE_VARIABLE, fetch_demo_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache-dir", help=f"where the model is kept (default: ${CACHE_VARIABLE}, or ~/.cache/mindspore_paged)"
    )
    try:
        print(fetch_demo_model(parser.parse_args().cache_dir))
    except PagedError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
