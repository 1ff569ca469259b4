"""Check the Ascend operators on this machine, and print a table to paste into an issue; see --help."""

import argparse
import os
import sys
from pathlib import Path

from mindspore_paged.ascend_check.check import check_backend
from mindspore_paged.ascend_check.groups import GROUPS, TIMED_GROUPS
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Check the custom operators on this machine, and print one Markdown table to paste into an issue.

On an NPU (the default) the operators are built with the CANN that is installed; a tiny random model decodes on the NPU
and on the CPU, and the tokens are compared; each operator is compared with NumPy in float64, 20 times on the same
inputs, which must give the same bits: decode over many tiles, sequences that are split over cores, long chunks,
head_dim 80, int8 pages, pages behind 2^32 bytes; and each is timed, beside MindSpore's own PagedAttention and
ReshapeAndCache.

Checks run in groups, each in a process of its own. Where one fails, it says where the driver's log is, and a fresh
process goes on with the next: a device does nothing right any more behind an error.

Without an NPU, --backend ascend_emulator runs the same kernels on this CPU, and --backend cpu checks the CPU's; both
are compared, not timed.

Exit code: 0 if everything is right, 1 if a result is wrong, differs between repeats, or is missing because a check
failed, 2 if there is no NPU, no CANN, or the build fails."""
EPILOG = """examples:
  check_ascend.py                            on an NPU, after `source set_env.sh` of CANN
  check_ascend.py --soc ascend910_93         on an Atlas A3
  check_ascend.py --no-build                 with the operators that are built already
  check_ascend.py --only split tiles         some groups alone
  check_ascend.py --backend ascend_emulator  anywhere: the NPU's kernels, emulated"""


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=BACKENDS, default="ascend", help="what to check (default: %(default)s)")
    parser.add_argument("--no-build", dest="build", action="store_false", help="take the operators as they are")
    parser.add_argument("--soc", metavar="NAME", help="what to build for: ascend910b (default) or ascend910_93")
    parser.add_argument("--cann", type=Path, metavar="DIR", help="the CANN toolkit (default: $ASCEND_HOME_PATH)")
    groups = ", ".join((*GROUPS, *TIMED_GROUPS))
    parser.add_argument("--only", nargs="+", default=(), metavar="GROUP", help=f"groups to run, of {groups}")
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each check (default: 20 on an NPU, else 2)")
    parser.add_argument("--library", type=Path, metavar="FILE", help="take the operators of a CPU's backend from here")
    arguments = vars(parser.parse_args())
    return exit_code_of(lambda: check_backend(**arguments, report=lambda line: print(line, file=sys.stderr)))


if __name__ == "__main__":
    sys.exit(kept(main))
