"""What a step's attention costs on an Ascend 910B, on paper, and what limits it."""

import dataclasses

from mindspore_paged.custom_ops.ascendc.chip import Chip
from mindspore_paged.custom_ops.ascendc.emulator_counts import (
    TILE_TOKENS,
    Attention,
    chosen_variant,
    counts_of_busiest,
)

HBM, ISSUE, L2 = "HBM", "issue of loads", "L2"
SEEN_ELSEWHERE = (HBM, ISSUE, L2)
"""The same bytes as other units move: they may limit, but a tile does not pass through them once more."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Microseconds that each unit of the busiest core works, and the step's attention in one layer as a whole."""

    variant: str
    units: dict[str, float]
    launch: float
    tiles: float
    """Of the busiest core."""
    lower_bound: float
    """Bytes of keys and values over HBM bandwidth."""

    @property
    def work(self) -> float:
        """The units work side by side, so that the busiest decides; its first tile still goes through all of them."""
        busiest = max(self.units.values())
        others = sum(time for unit, time in self.units.items() if unit not in SEEN_ELSEWHERE and time < busiest)
        return busiest + others / self.tiles

    @property
    def total(self) -> float:
        """With the launch."""
        return self.launch + self.work

    @property
    def limit(self) -> str:
        """The busiest unit."""
        return max(self.units, key=self.units.get)


def estimate(shape: Attention, chip: Chip, variant: str | None = None) -> Estimate:
    """Estimate one layer's attention by a variant, "vector" or "cube", or None for the one that the tiling takes.

    Raises BuildError where the emulator is not built.
    """
    variant = variant or chosen_variant(shape)
    counts = counts_of_busiest(shape, variant, chip.cube_cores)
    cycle = chip.cycle_us
    vector = counts["aiv_vector_repeats"] + counts["aiv_vector_instructions"] * chip.vector_startup_cycles
    lower_bound = shape.kv_bytes / chip.hbm_gb_s * 1e-3
    units = {
        HBM: lower_bound,
        "GM to UB": counts["aiv_mte2_bytes"] / chip.ub_gb_s * 1e-3,
        "UB to GM": counts["aiv_mte3_bytes"] / chip.ub_gb_s * 1e-3,
        "vector": vector * cycle,
        ISSUE: max(counts["aiv_mte2_copies"], counts["aic_mte2_copies"]) * chip.copy_startup_cycles * cycle,
    }
    if variant == "cube":
        units |= {
            "GM to L1": chip.load_us(counts["aic_mte2_bytes"], counts["aic_mte2_rows"]),
            "cube": counts["aic_cube_macs"] / chip.cube_macs_per_cycle * cycle,
            "L1 to L0": counts["aic_mte1_bytes"] / chip.mte1_bytes_per_cycle * cycle,
            "L0C to GM": counts["aic_fix_bytes"] / chip.fixpipe_bytes_per_cycle * cycle,
            L2: counts["exchanged_bytes"] / chip.l2_gb_s * 1e-3,
        }
    loaded = counts["aic_mte2_bytes" if variant == "cube" else "aiv_mte2_bytes"]
    tiles = max(1.0, loaded / (shape.bytes_of_token * TILE_TOKENS[variant]))
    return Estimate(variant, units, chip.launch_us, tiles, lower_bound)
