"""What the kernel of paged_attention moves and does, counted by running it on the CPU emulator."""

import ctypes
import dataclasses
import json
import math
from collections.abc import Mapping
from functools import cache

from mindspore_paged.custom_ops.build import library_function
from mindspore_paged.custom_ops.build_emulator import emulator_library

KEYS = {"vector": 1, "cube": 2}
"""Variants, and the tiling keys that choose them."""
TILING_CHOOSES = 0
TILE_TOKENS = {"vector": 64, "cube": 512}
"""KV tokens of a variant's longest tile: kVectorTileTokens and kCubeTileTokens of paged_attention_tiling.h."""
MIN_TOKENS_PER_CORE = 256
MOST_TOKENS_EMULATED = 2**15
"""Of all rows' contexts in a decode step; longer ones are counted by two short ones of a single core."""
FEW, MANY = 2, 6
"""Tiles of these two."""
CHIP = (40, 20)
OF_ALL_CORES = ("kv_bytes", "exchanged_bytes")

Counts = Mapping[str, float]
"""For each figure of the emulator's report, what the busiest core of its kind does; OF_ALL_CORES are sums."""


@dataclasses.dataclass(frozen=True)
class Attention:
    """One layer's attention of a step on one card: `batch` rows of `context` tokens, the last `new_tokens` asked for.

    Queries are float16, pages float16 or int8.
    """

    batch: int
    context: int
    new_tokens: int = 1
    num_heads: int = 8
    num_kv_heads: int = 1
    head_dim: int = 128
    block_size: int = 128
    is_int8: bool = False

    @property
    def bytes_of_token(self) -> int:
        """Bytes of a token's key and value in one KV head, with their scales."""
        return 2 * (self.head_dim + 4 if self.is_int8 else 2 * self.head_dim)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values: each must be read once."""
        return self.batch * self.context * self.num_kv_heads * self.bytes_of_token

    def tiles(self, tile_tokens: int) -> int:
        """Tiles of all tasks of a decode step: each row and KV head is one."""
        return self.batch * self.num_kv_heads * math.ceil(self.context / tile_tokens)


def counts_of_busiest(shape: Attention, variant: str, cube_cores: int) -> Counts:
    """Count what the busiest core does where `cube_cores` of them share the step; raises BuildError."""
    if shape.new_tokens > 1 or shape.batch * shape.context * shape.num_kv_heads <= MOST_TOKENS_EMULATED:
        return counts_of(shape, variant, cube_cores)
    tile_tokens = TILE_TOKENS[variant]
    tiles = tiles_of_busiest(shape, variant, cube_cores)
    tasks = max(1.0, tiles * tile_tokens / shape.context)
    busy_cores = math.ceil(shape.tiles(tile_tokens) / tiles)
    per_tile_and_task = slope_and_offset(dataclasses.replace(shape, batch=1, context=tile_tokens), variant)
    counts = {name: tiles * per_tile + tasks * per_task for name, (per_tile, per_task) in per_tile_and_task.items()}
    return counts | {name: counts[name] * busy_cores for name in OF_ALL_CORES}


def tiles_of_busiest(shape: Attention, variant: str, cube_cores: int) -> int:
    """Tiles of a decode step that the busiest core gets, all of the longest kind."""
    tile_tokens, cores = TILE_TOKENS[variant], cube_cores if variant == "cube" else 2 * cube_cores
    return max(math.ceil(shape.tiles(tile_tokens) / cores), MIN_TOKENS_PER_CORE // tile_tokens, 1)


@cache
def slope_and_offset(shape: Attention, variant: str) -> dict[str, tuple[float, float]]:
    """For each figure of one core that does all: what a tile adds to it, and what a task does; by two runs of a row."""
    at_few, at_many = (
        counts_of(dataclasses.replace(shape, batch=1, context=tiles * TILE_TOKENS[variant]), variant, cube_cores=None)
        for tiles in (FEW, MANY)
    )
    heads = shape.num_kv_heads
    slopes = {name: (at_many[name] - at_few[name]) / ((MANY - FEW) * heads) for name in at_few}
    return {name: (slope, at_few[name] / heads - FEW * slope) for name, slope in slopes.items()}


@cache
def counts_of(shape: Attention, variant: str, cube_cores: int | None) -> Counts:
    """Run the step on the emulator, on a chip of so many cube cores, or on one core where None; raises BuildError.

    Names begin with aic_ for cube cores and aiv_ for vector cores.
    """
    of_one_core = (1, 0) if variant == "vector" else (2, 1)
    cores = of_one_core if cube_cores is None else (2 * cube_cores, cube_cores)
    report = _report(shape, *cores, KEYS[variant])
    buffers = report["buffers"]
    return {
        **{f"aic_{name}": value for name, value in report["slowest_cube_core"].items()},
        **{f"aiv_{name}": value for name, value in report["slowest_vector_core"].items()},
        "kv_bytes": buffers["key_cache"]["read"] + buffers["value_cache"]["read"],
        "exchanged_bytes": buffers["workspace"]["read"] + buffers["workspace"]["written"],
    }


@cache
def chosen_variant(shape: Attention) -> str:
    """The variant that the tiling takes; raises BuildError."""
    few = min(shape.new_tokens, 64)
    short = dataclasses.replace(shape, batch=1, new_tokens=few, context=max(few, 64))
    return "cube" if _report(short, *CHIP, TILING_CHOOSES)["total"]["cube_macs"] else "vector"


def _report(shape: Attention, vector_cores: int, cube_cores: int, key: int) -> dict:
    library = emulator_library()
    run = library_function(library, "EmulatorAttentionReport")
    run.restype = ctypes.c_char_p
    set_chip = library_function(library, "EmulatorSetChip")
    numbers = (shape.batch, shape.new_tokens, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.block_size)
    set_chip(vector_cores, cube_cores, key)
    try:
        return json.loads(run(*map(ctypes.c_int64, (*numbers, shape.context, shape.is_int8))))
    finally:
        set_chip(*CHIP, TILING_CHOOSES)
