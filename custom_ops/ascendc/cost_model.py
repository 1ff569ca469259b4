"""A model of time on paper: attention on an Ascend 910B, a decode step with it, and what limits them.

What the kernels move and do is counted by running them on the CPU emulator (`emulator_counts`); how fast the chip does
it is stated in `Chip`, and can be changed on the command line. Nothing here was measured with these kernels: that is
what `scripts/check_ascend.py` does.

`python -m mindspore_paged.custom_ops.ascendc.cost_model --help`
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from mindspore_paged.custom_ops.ascendc.chip import Chip
from mindspore_paged.custom_ops.ascendc.cost_tables import NAMES, Tables, with_tables
from mindspore_paged.custom_ops.ascendc.emulator_counts import Attention
from mindspore_paged.custom_ops.ascendc.step_model import LAUNCHES_PLANNED, LAUNCHES_TODAY
from mindspore_paged.custom_ops.build import BuildError
from mindspore_paged.errors import ConfigError
from mindspore_paged.files import write_text

DESCRIPTION = """Estimate attention on an Ascend 910B, and a decode step of LLaMA-70B on 8 cards with it: each has 8 of
the 64 query heads, 1 of the 8 KV heads, and all 80 layers."""
EPILOG = "With --write docs/ascend_performance.md the tables of that page are made anew; take the defaults for it."


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, or write them into a page; returns the exit code."""
    options = _parser().parse_args(arguments)
    shape = Attention(32, 2048, 1, options.heads, options.kv_heads, options.head_dim, options.block_size)
    chip = Chip(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Chip)})
    tables = Tables(
        shape,
        chip,
        layers=options.layers,
        batches=tuple(options.batches),
        contexts=tuple(options.contexts),
        launches=tuple(options.launches),
    )
    try:
        found = tables.made(options.only)
        if options.write is None:
            print("\n\n".join(f"<!-- table: {name} -->\n{table}" for name, table in found.items()))
        else:
            write_text(options.write, with_tables(options.write.read_text(encoding="utf-8"), found))
    except (BuildError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindspore_paged.custom_ops.ascendc.cost_model",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Tables(Attention(32, 2048), Chip())
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page instead")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="TABLE", help="of these tables")
    parser.add_argument("--heads", type=int, default=8, help="query heads of a card")
    parser.add_argument("--kv-heads", type=int, default=1, help="KV heads of a card")
    parser.add_argument("--head-dim", type=int, default=128, help="64, 80 or 128")
    parser.add_argument("--layers", type=int, default=default.layers)
    parser.add_argument("--block-size", type=int, default=128, help="KV tokens of a block")
    parser.add_argument("--batches", type=int, nargs="+", default=default.batches, help="rows of a decode step")
    parser.add_argument("--contexts", type=int, nargs="+", default=default.contexts, help="tokens of each row")
    launches = f"kernels of a layer of the model: {LAUNCHES_TODAY} today, {LAUNCHES_PLANNED} planned"
    parser.add_argument("--launches", type=int, nargs="+", default=default.launches, help=launches)
    for field in dataclasses.fields(Chip):
        flag, value = "--" + field.name.replace("_", "-"), getattr(default.chip, field.name)
        source = f"of the chip, {field.metadata['unit']}: {field.metadata['source']}"
        parser.add_argument(flag, type=type(value), default=value, help=source)
    return parser


if __name__ == "__main__":
    sys.exit(main())
