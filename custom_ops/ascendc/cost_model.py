"""A model of time on paper: what a decode step's attention costs on an Ascend 910B, and what limits it.

What the kernels move and do is counted by running them on the CPU emulator; how fast the chip does it is stated in
`Chip`, and can be changed on the command line. Nothing here was measured on an NPU: that is what
`scripts/check_ascend.py` does.

`python -m mindspore_paged.custom_ops.ascendc.cost_model --help`
"""

import argparse
import ctypes
import dataclasses
import json
import sys
from functools import cache

from mindspore_paged.custom_ops.build import BuildError
from mindspore_paged.custom_ops.build_emulator import emulator_library

VECTOR_TILE_TOKENS = 64
CUBE_TILE_TOKENS = 512
MIN_TOKENS_PER_CORE = 256
ISSUE = "issue of loads"
TOTALS = ("vector_instructions", "vector_repeats", "cube_macs", "mte1_bytes", "fix_bytes")
"""Figures of the emulator's report, taken over all cores."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Rates of an Ascend 910B3, from Huawei's public figures where there are any; the others are marked as assumed."""

    cube_cores: int = 20
    vector_cores: int = 40
    clock_ghz: float = 1.8
    hbm_gb_s: float = 1600.0
    l2_gb_s: float = 4800.0
    """Assumed: what the cores hand each other through the workspace stays in L2."""
    cube_macs_per_cycle: int = 16 * 16 * 16
    mte1_bytes_per_cycle: int = 256
    fixpipe_bytes_per_cycle: int = 128
    vector_startup_cycles: int = 14
    """Assumed: what a vector instruction costs beside its repeats, behind a barrier."""
    copy_startup_cycles: int = 60
    """Assumed: the shortest time between two copies of one core."""
    launch_us: float = 5.0
    """Assumed: launch, the scan of rows, SyncAll."""


@dataclasses.dataclass(frozen=True)
class Decode:
    """One decode step's attention in one layer on one card: `batch` rows of `context` tokens, float16."""

    batch: int
    context: int
    num_heads: int = 8
    num_kv_heads: int = 1
    head_dim: int = 128
    block_size: int = 128

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that must be read, each once."""
        return 2 * self.batch * self.context * self.num_kv_heads * self.head_dim * 2

    def tiles(self, tile_tokens: int) -> int:
        """Tiles of all tasks."""
        return self.batch * self.num_kv_heads * -(-self.context // tile_tokens)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Microseconds that each unit of the slowest core is busy, and the step's attention in one layer as a whole."""

    units: dict[str, float]
    launch: float
    tiles: int
    """Of the slowest core."""
    lower_bound: float
    """Bytes of keys and values over HBM bandwidth."""

    @property
    def total(self) -> float:
        """The units work side by side, so that the busiest decides; its first tile still goes through all of them."""
        busiest = max(self.units.values())
        others = sum(time for unit, time in self.units.items() if unit != ISSUE) - busiest
        return self.launch + busiest + max(0.0, others) / self.tiles

    @property
    def limit(self) -> str:
        """The busiest unit."""
        return max(self.units, key=self.units.get)


def estimate(decode: Decode, chip: Chip, variant: str) -> Estimate:
    """Estimate one layer's attention; `variant` is "vector" or "cube"."""
    tile_tokens = VECTOR_TILE_TOKENS if variant == "vector" else CUBE_TILE_TOKENS
    cores = chip.vector_cores if variant == "vector" else chip.cube_cores
    per_core = max(-(-decode.tiles(tile_tokens) // cores), MIN_TOKENS_PER_CORE // tile_tokens, 1)
    busy_cores = -(-decode.tiles(tile_tokens) // per_core)
    tasks = max(1.0, per_core * tile_tokens / decode.context)
    counts = {
        name: per_core * per_tile + tasks * per_task
        for name, (per_tile, per_task) in slope_and_offset(decode, variant).items()
    }
    cycle_us = 1e-3 / chip.clock_ghz
    # A core alone gets its share of HBM, as if all were busy: one that loads while others rest may do better.
    shared_us = 1e-3 / (chip.hbm_gb_s / cores)
    cube = variant == "cube"
    vectors_of_core = 2 if cube else 1
    units = {
        "HBM": max(decode.kv_bytes / chip.hbm_gb_s * 1e-3, counts["kv_bytes"] * shared_us),
        ISSUE: counts["loads"] * chip.copy_startup_cycles * cycle_us,
        "vector": (counts["vector_repeats"] + counts["vector_instructions"] * chip.vector_startup_cycles)
        * cycle_us
        / vectors_of_core,
    }
    if cube:
        exchanged = counts["exchanged_bytes"] * busy_cores
        units |= {
            "cube": counts["cube_macs"] / chip.cube_macs_per_cycle * cycle_us,
            "L1 to L0": counts["mte1_bytes"] / chip.mte1_bytes_per_cycle * cycle_us,
            "L0C to L2": counts["fix_bytes"] / chip.fixpipe_bytes_per_cycle * cycle_us,
            "L2": exchanged / chip.l2_gb_s * 1e-3,
        }
    return Estimate(units, chip.launch_us, per_core, decode.kv_bytes / chip.hbm_gb_s * 1e-3)


@cache
def slope_and_offset(decode: Decode, variant: str) -> dict[str, tuple[float, float]]:
    """For each figure of one core: what a tile adds to it, and what a task does; from two runs of the emulator."""
    tile_tokens = VECTOR_TILE_TOKENS if variant == "vector" else CUBE_TILE_TOKENS
    few, many = 2, 6
    at_few, at_many = (
        counts_of(dataclasses.replace(decode, batch=1, context=tiles * tile_tokens), variant) for tiles in (few, many)
    )
    heads = decode.num_kv_heads
    slopes = {name: (at_many[name] - at_few[name]) / ((many - few) * heads) for name in at_few}
    return {name: (slope, at_few[name] / heads - few * slope) for name, slope in slopes.items()}


@cache
def counts_of(decode: Decode, variant: str) -> dict[str, int]:
    """Count what one core (with its vector cores) does when it does all of `decode`; raises BuildError."""
    library = ctypes.CDLL(str(emulator_library()))
    library.EmulatorDecodeReport.restype = ctypes.c_char_p
    shape = (decode.batch, decode.num_heads, decode.num_kv_heads, decode.head_dim, decode.block_size, decode.context)
    library.EmulatorSetChip(*((1, 0, 1) if variant == "vector" else (2, 1, 2)))
    try:
        report = json.loads(library.EmulatorDecodeReport(*map(ctypes.c_int64, shape)))
    finally:
        library.EmulatorSetChip(Chip.vector_cores, Chip.cube_cores, 0)
    total, buffers = report["total"], report["buffers"]
    loader = report["slowest_vector_core" if variant == "vector" else "slowest_cube_core"]
    return {
        "kv_bytes": buffers["key_cache"]["read"] + buffers["value_cache"]["read"],
        "exchanged_bytes": buffers["workspace"]["read"] + buffers["workspace"]["written"],
        "loads": loader["mte2_copies"],
        **{
            name: total[name]
            for name in ("vector_instructions", "vector_repeats", "cube_macs", "mte1_bytes", "fix_bytes")
        },
    }


def best(decode: Decode, chip: Chip) -> tuple[str, Estimate]:
    """The faster variant and its estimate."""
    estimates = {variant: estimate(decode, chip, variant) for variant in ("vector", "cube")}
    name = min(estimates, key=lambda variant: estimates[variant].total)
    return name, estimates[name]


def step_table(decode: Decode, chip: Chip, layers: int, batches: list[int], contexts: list[int]) -> str:
    """Markdown: milliseconds of attention in a decode step of all layers, over batch and context."""
    lines = [
        "| batch | context | vector, ms | its limit | cube, ms | its limit | bytes / bandwidth, ms | cube over bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for batch in batches:
        for context in contexts:
            shape = dataclasses.replace(decode, batch=batch, context=context)
            vector, cube = estimate(shape, chip, "vector"), estimate(shape, chip, "cube")
            scale = layers * 1e-3
            lines.append(
                f"| {batch} | {context} | {vector.total * scale:.2f} | {vector.limit} | {cube.total * scale:.2f} "
                f"| {cube.limit} | {cube.lower_bound * scale:.2f} | {cube.total / cube.lower_bound:.2f} |"
            )
    return "\n".join(lines)


def crossover_table(decode: Decode, chip: Chip, groups: list[int]) -> str:
    """Markdown: both variants over the number of query heads a KV head."""
    lines = [
        "| query heads a KV head | vector, us | its limit | cube, us | its limit | bound, us |",
        "|---|---|---|---|---|---|",
    ]
    for group in groups:
        shape = dataclasses.replace(decode, num_heads=group * decode.num_kv_heads)
        vector = estimate(shape, chip, "vector")
        row = f"| {group} | {vector.total:.1f} | {vector.limit} |"
        if group > 1:
            cube = estimate(shape, chip, "cube")
            row += f" {cube.total:.1f} | {cube.limit} |"
        else:
            row += " - | - |"
        lines.append(f"{row} {vector.lower_bound:.1f} |")
    return "\n".join(lines)


def block_size_table(decode: Decode, chip: Chip, block_sizes: list[int]) -> str:
    """Markdown: microseconds over the block size, and what issuing the copies takes of them."""
    lines = ["| block_size | vector, us | cube, us | issue of loads, us (cube) |", "|---|---|---|---|"]
    for block_size in block_sizes:
        shape = dataclasses.replace(decode, block_size=block_size)
        vector, cube = estimate(shape, chip, "vector"), estimate(shape, chip, "cube")
        lines.append(f"| {block_size} | {vector.total:.1f} | {cube.total:.1f} | {cube.units[ISSUE]:.1f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    chip = Chip()
    parser = argparse.ArgumentParser(
        prog="python -m mindspore_paged.custom_ops.ascendc.cost_model",
        description="Estimate a decode step's attention on an Ascend 910B. The default is LLaMA-70B on 8 cards: each "
        "has 8 of the 64 query heads, 1 of the 8 KV heads, and all 80 layers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--heads", type=int, default=8, help="query heads of a card")
    parser.add_argument("--kv-heads", type=int, default=1, help="KV heads of a card")
    parser.add_argument("--head-dim", type=int, default=128, help="64, 80 or 128")
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--block-size", type=int, default=128, help="KV tokens of a block")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64], help="rows of a decode step")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192, 32768], help="tokens of each row")
    for field in dataclasses.fields(Chip):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(
            flag, type=type(getattr(chip, field.name)), default=getattr(chip, field.name), help="of the chip"
        )
    options = parser.parse_args(arguments)
    chip = Chip(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Chip)})
    decode = Decode(32, 2048, options.heads, options.kv_heads, options.head_dim, options.block_size)
    try:
        print(f"Attention of a decode step, {options.layers} layers\n")
        print(step_table(decode, chip, options.layers, options.batches, options.contexts))
        print("\nOne layer, batch 32, context 2048, over the size of a group\n")
        print(crossover_table(decode, chip, [1, 2, 3, 4, 8, 16]))
        print("\nThe same, over the block size\n")
        print(block_size_table(decode, chip, [16, 32, 64, 128, 256]))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
