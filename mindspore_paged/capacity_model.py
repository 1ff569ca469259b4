"""How many sequences a device's memory holds, with contiguous KV caches and with pages, and what that does for decode.

Plain arithmetic over the model's shape, without device, weights or MindSpore. Memory and batches follow from the
pool's own arithmetic; the rate is the roofline of `scaling_model`, whose assumptions `Cards` states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindspore_paged.cache.pool_size import num_blocks_for_budget, page_bytes_per_token
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.scaling_model import Cards, decode_step, rank_weights
from mindspore_paged.tensor_parallel import TensorParallel

CONTIGUOUS, PAGED = "contiguous", "paged"


@dataclass(frozen=True)
class Deployment:
    """A model on its devices; raises ConfigError where they cannot share it, or where weights leave no memory.

    reserve_gb: of each card's memory, for activations, graphs and the runtime. weight_bytes_each: bytes of a weight.
    block_size: tokens of a page. kv_cache_dtype: type of its elements.
    """

    model: ModelConfig
    cards: Cards
    ranks: int
    reserve_gb: float
    block_size: int
    weight_bytes_each: float
    kv_cache_dtype: str

    def __post_init__(self):
        TensorParallel(0, self.ranks).check(self.model)
        if self.kv_budget <= 0:
            raise ConfigError(
                f"weights take {self.weight_bytes / 1e9:.1f} GB of a device, and {self.reserve_gb:g} GB are reserved: "
                f"its {self.cards.memory_gb:g} GB have no room for pages; raise --tensor-parallel or --device-memory"
            )

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on one device."""
        return round(rank_weights(self.model, self.ranks) * self.weight_bytes_each)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values on one device, over all layers."""
        return page_bytes_per_token(TensorParallel(0, self.ranks).share(self.model), self.kv_cache_dtype)

    @property
    def kv_budget(self) -> int:
        """Bytes that are left for pages on one device."""
        return int((self.cards.memory_gb - self.reserve_gb) * 1e9) - self.weight_bytes

    @property
    def num_blocks(self) -> int:
        """Pages that fit, the null block included."""
        return num_blocks_for_budget(self.kv_budget, self.kv_bytes_per_token, self.block_size)


@dataclass(frozen=True)
class Capacity:
    """What one policy makes of the memory.

    utilization: share of the slots held for running sequences that has a token in it. largest_batch: sequences that
    run at once. tokens_per_second: of a decode step of that batch, on all devices together.
    """

    policy: str
    max_model_len: int
    mean_context: float
    utilization: float
    budget_used: float
    largest_batch: int
    step_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Held:
    """Tokens that a running sequence has in the cache, and pages it holds for them, on average over all steps."""

    tokens: float
    blocks: float


def mean_held(prompts: Sequence[int], outputs: Sequence[int], block_size: int, window: int = 0) -> Held:
    """The averages over requests of these lengths, each counted in as many steps as it decodes.

    A request of p prompt and o output tokens has p, p + 1, … p + o - 1 tokens in the cache: the last one of an answer
    is never computed. Prefill is taken to need no time of its own. window: tokens that the next one sees, itself
    included; what stands before is attended to no more, and blocks of nothing else are given back. 0 is no window.
    """
    prompts, outputs = np.asarray(prompts, np.int64), np.asarray(outputs, np.int64)
    steps = int(outputs.sum())
    tokens = prompts * outputs + outputs * (outputs - 1) // 2
    blocks = _blocks_up_to(prompts + outputs - 1, block_size) - _blocks_up_to(prompts - 1, block_size)
    if window:
        # Of n tokens n - window + 1 are behind the window of the next one, and as many whole blocks as they fill.
        last, before = (np.maximum(n - window + 1, 0) for n in (prompts + outputs - 1, prompts - 1))
        tokens -= (last * (last + 1) - before * (before + 1)) // 2
        blocks -= _full_blocks_up_to(last, block_size) - _full_blocks_up_to(before, block_size)
    return Held(int(tokens.sum()) / steps, int(blocks.sum()) / steps)


def _blocks_up_to(last: np.ndarray, block_size: int) -> np.ndarray:
    """The sum of ceil(n / block_size) for n from 1 to `last`."""
    whole, rest = last // block_size, last % block_size
    return block_size * whole * (whole + 1) // 2 + rest * (whole + 1)


def _full_blocks_up_to(last: np.ndarray, block_size: int) -> np.ndarray:
    """The sum of floor(n / block_size) for n from 1 to `last`."""
    return _blocks_up_to(last + 1, block_size) - (last + 1)


def capacities(
    deployment: Deployment,
    max_model_len: int,
    prompts: Sequence[int],
    outputs: Sequence[int],
    max_batch: int | None = None,
) -> list[Capacity]:
    """Contiguous and paged, for requests of these lengths; raises ConfigError if one of max_model_len does not fit.

    max_batch: the engine's own limit of sequences; None is none.
    """
    block_size, usable = deployment.block_size, deployment.num_blocks - 1  # one is the null block
    reserved = -(-max_model_len // block_size)
    if reserved > usable:
        raise ConfigError(
            f"pages have {usable * block_size} tokens on a device, less than one sequence of max_model_len "
            f"{max_model_len}; raise --tensor-parallel or --device-memory"
        )
    longest = int(np.max(np.asarray(prompts) + np.asarray(outputs)))
    if longest > max_model_len:
        raise ConfigError(f"a request of {longest} tokens was drawn, but max_model_len is {max_model_len}")
    held = mean_held(prompts, outputs, block_size, deployment.model.cache_window)
    results = []
    for policy, blocks_each in ((CONTIGUOUS, reserved), (PAGED, held.blocks)):
        batch = int(usable / blocks_each)
        batch = batch if max_batch is None else min(batch, max_batch)
        step = decode_step(
            deployment.model,
            deployment.cards,
            deployment.ranks,
            batch,
            held.tokens,
            weight_bytes_each=deployment.weight_bytes_each,
            kv_bytes_per_token=deployment.kv_bytes_per_token,
        )
        results.append(
            Capacity(
                policy,
                max_model_len,
                held.tokens,
                held.tokens / (blocks_each * block_size),
                batch * held.tokens / (usable * block_size),
                batch,
                step.total_ms,
                batch / step.total_ms * 1e3,
            )
        )
    return results
