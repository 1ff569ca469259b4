"""Try mutants of the files that are read, and save those that are neither answered rightly nor refused; see --help."""

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the fuzzer is part of the tests, which are not installed

from tests.fuzz.campaign import Figures, Worker, run, save_faults, table  # noqa: E402
from tests.fuzz.formats import FORMATS, PLANTED  # noqa: E402

DESCRIPTION = """Try mutants of the files that are read: each must give the right answer, or be refused in one short
line that names the file, within 2 s of processor time and 2 GB of memory. What does not is saved, and what happened.

  wrong     an answer, but not that of the good file, though the mutation left alone what the answer is made of
  unclear   refused, but not in one short line that names the file
  other     another exception
  hang, memory, crash   over the limits, or the end of the process"""
EPILOG = """examples:
  fuzz.py --format gguf --seconds 600
  fuzz.py --mutants 2000 --seed 7 --jobs 2        every format

The same seed gives the same mutants. Exit code 1 if anything was found."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", choices=("all", *FORMATS, PLANTED), default="all", help="what to try (default all)")
    parser.add_argument("--seconds", type=float, metavar="S", help="for each format (default 60, unless --mutants)")
    parser.add_argument("--mutants", type=int, metavar="N", help="of each format at most")
    parser.add_argument("--seed", type=int, metavar="N", help="default: another each time")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at once (default 1)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "fuzz", metavar="DIR", help="default build/fuzz"
    )
    arguments = parser.parse_args()
    if arguments.seconds is None and arguments.mutants is None:
        arguments.seconds = 60
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    return fuzz(arguments)


def fuzz(arguments: argparse.Namespace) -> int:
    names = FORMATS if arguments.format == "all" else (arguments.format,)
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    figures: dict[str, Figures] = {}
    saved: list[Path] = []
    workers = [Worker() for _ in range(arguments.jobs)]
    try:
        for name in names:
            with tqdm(total=arguments.mutants, desc=name, unit="mutant", disable=None) as bar:
                figures[name] = run(name, seed, workers, arguments.mutants, arguments.seconds, bar.update)
            saved += save_faults(name, seed, figures[name], arguments.output)
    finally:
        for worker in workers:
            worker.close()
    print(f"seed {seed}\n{table(figures)}")
    for place in saved:
        print(f"found: {place}")
    return 1 if any(each.faults for each in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
