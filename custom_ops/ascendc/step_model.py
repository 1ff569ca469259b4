"""A whole decode step of a tensor-parallel model on paper, operator by operator: where its time goes."""

import dataclasses

from mindspore_paged.custom_ops.ascendc.attention_time import estimate
from mindspore_paged.custom_ops.ascendc.chip import Chip
from mindspore_paged.custom_ops.ascendc.emulator_counts import Attention
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.scaling_model import Cards, all_gather_ms, all_reduce_ms
from mindspore_paged.tensor_parallel import TensorParallel

ITEM_SIZE = 2  # of a weight and an activation: float16
LAUNCHES_TODAY, LAUNCHES_PLANNED = 41, 9
"""Kernels of a layer: MindSpore's graph operator by operator, and with a layer in few operators."""
CUBE_SHARE = 0.7
"""Of the cube cores' peak that a product of many rows reaches: assumed."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A decode step: milliseconds by operator, without launches, and how many launches there are."""

    operators: dict[str, float]
    launches: int
    launch_us: float

    @property
    def launches_ms(self) -> float:
        """One behind the other: none begins before the one before it has ended."""
        return self.launches * self.launch_us * 1e-3

    @property
    def total(self) -> float:
        """Milliseconds of the step: nothing overlaps."""
        return sum(self.operators.values()) + self.launches_ms


def decode_step(
    model: ModelConfig, chip: Chip, cards: Cards, ranks: int, batch: int, context: int, launches_a_layer: int
) -> Step:
    """One token for each of `batch` rows of `context` tokens, on one of `ranks` cards.

    A product takes its weights' bytes at what all cube cores load, or at HBM's rate where that is less, or its
    multiplications. Raises ConfigError if the ranks cannot share the model, BuildError without the emulator.
    """
    parallel = TensorParallel(0, ranks)
    parallel.check(model)
    share, layers, hidden = parallel.share(model), model.num_hidden_layers, model.hidden_size
    heads, kv_heads, head_dim = share.num_attention_heads, share.num_key_value_heads, model.head_dim
    projections = {
        "q, k, v": hidden * (heads + 2 * kv_heads) * head_dim,
        "o": heads * head_dim * hidden,
        "gate, up": 2 * hidden * share.intermediate_size,
        "down": share.intermediate_size * hidden,
    }
    shape = Attention(batch, context, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)
    rows_bytes = batch * hidden * ITEM_SIZE
    vocab = parallel.vocab(model).length
    operators = {name: layers * product_ms(chip, weights, batch) for name, weights in projections.items()}
    operators["attention"] = layers * estimate(shape, chip).work * 1e-3
    operators["head"] = product_ms(chip, hidden * vocab, batch)
    operators["AllReduce"] = (2 * layers + 1) * all_reduce_ms(cards, ranks, rows_bytes)
    operators["AllGather"] = all_gather_ms(cards, ranks, batch * vocab * 4)
    return Step(operators, layers * launches_a_layer, chip.launch_us)


def product_ms(chip: Chip, weights: int, rows: int) -> float:
    """Milliseconds of `rows` rows times so many weights of float16."""
    loaded_gb_s = min(chip.hbm_gb_s, chip.cube_cores * chip.long_row_gb_s)
    macs_a_us = chip.cube_cores * chip.cube_macs_per_cycle * CUBE_SHARE / chip.cycle_us
    padded_rows = -(-rows // 16) * 16
    return max(weights * ITEM_SIZE / loaded_gb_s * 1e-6, weights * padded_rows / macs_a_us * 1e-3)
