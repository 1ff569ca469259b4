"""Draw what happened to every block of the pool over a run; see --help."""

import argparse
import shutil
import sys
from pathlib import Path

from mindspore_paged.cache.event_log import read_event_log
from mindspore_paged.launch.keeper import kept
from mindspore_paged.pool_picture import render_text, save_picture
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Draw what happened to every block of the pool over a run, from the event log that the engine wrote.

The picture has steps from left to right and blocks from top to bottom. Requests are told apart by colour (after 48
the colours repeat); grey and pale blocks are nobody's own: shared, pinned, cached, free, or withheld. Below stand the
pool's shares, the sequences that ran and waited, each preemption, and the pages in the host tier. How to read it:

  a colour in one piece         a request in neighbouring blocks; in many stripes: scattered, compaction would help
  a colour that ends at a mark  the request was preempted; it comes back further right, perhaps in other blocks
  much grey, nothing waiting    the pool is larger than the load needs
  no grey, and a long queue     the pool is too small; see the preemptions"""
EPILOG = """examples:
  show_cache.py run.jsonl                         writes run.jsonl.png
  show_cache.py run.jsonl --output pool.png       writes pool.png
  show_cache.py run.jsonl --terminal              draws here, in the terminal's width; plain letters into a pipe

A log that is still being written, or whose run was killed, can be drawn too."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="event log of a run")
    parser.add_argument("--output", type=Path, metavar="PNG", help="file to write (default LOG.png)")
    parser.add_argument("--terminal", action="store_true", help="draw in the terminal; write a file only with --output")
    arguments = parser.parse_args()
    return exit_code_of(lambda: show(arguments))


def show(arguments: argparse.Namespace) -> None:
    log = read_event_log(arguments.log)
    if arguments.terminal:
        size = shutil.get_terminal_size()
        print(render_text(log, size.columns, size.lines, coloured=sys.stdout.isatty()))
    if arguments.output or not arguments.terminal:
        output = arguments.output or arguments.log.with_name(arguments.log.name + ".png")
        save_picture(log, output)
        print(f"wrote {output}")


if __name__ == "__main__":
    sys.exit(kept(main))
