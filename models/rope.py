"""Frequencies of rotary position embeddings (Su et al. 2021), with the scalings that stretch them."""

import math
from dataclasses import replace

import numpy as np

from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.rope_scaling import RopeScaling


def rope_tables(config: ModelConfig, num_positions: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cosines and sines by every table of a model (ModelConfig.rope_table_of), as `rope_table` gives them."""
    configs = [config]
    if config.local_rope_theta is not None:
        configs.append(replace(config, rope_theta=config.local_rope_theta, rope_scaling=RopeScaling()))
    return [rope_table(of_table, num_positions) for of_table in configs]


def rope_table(config: ModelConfig, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines for positions 0 .. num_positions - 1, each float32 [num_positions, config.rotated].

    The two halves of a row are equal: of a head the first numbers, D in all, are rotated as pairs (i, i + D / 2),
    Hugging Face's order. Both are multiplied by the attention factor, which scales scores by its square. Raises
    ConfigError for angles that no number can hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        angles = np.outer(np.arange(num_positions, dtype=np.float64), inverse_frequencies(config, num_positions))
    if not np.isfinite(angles).all():
        raise ConfigError(f"rope_theta {config.rope_theta} and rope_scaling give angles that are no numbers")
    angles, factor = np.concatenate([angles, angles], axis=1), attention_factor(config)
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def inverse_frequencies(config: ModelConfig, num_positions: int) -> np.ndarray:
    """Radians per position for each pair of a head, float64 [config.rotated / 2], scaled as config.rope_scaling says.

    num_positions: the longest sequence, by which longrope chooses its factors.
    """
    scaling, base = config.for_length(num_positions).rope_scaling, config.rope_theta
    if scaling.type == "ntk":
        base *= scaling.factor ** (config.rotated / (config.rotated - 2))
    frequencies = base ** -(np.arange(0, config.rotated, 2, dtype=np.float64) / config.rotated)
    if scaling.divisors:
        frequencies = frequencies / np.array(scaling.divisors)
    if scaling.type == "linear":
        return frequencies / scaling.factor
    if scaling.type == "longrope":
        return frequencies / np.array(scaling.long_factor)
    trained = scaling.trained_context(config.max_position_embeddings)
    if scaling.type == "llama3":
        return _scale_llama3(frequencies, scaling, trained)
    if scaling.type == "yarn":
        kept = _kept_by_yarn(config, scaling, trained)
        return kept * frequencies + (1 - kept) * frequencies / scaling.factor
    return frequencies


def attention_factor(config: ModelConfig) -> float:
    """What cosines and sines are multiplied by: as the scaling says, or what its authors derive from its factor."""
    scaling = config.rope_scaling
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.type == "yarn":
        return 1.0 + 0.1 * math.log(scaling.factor)
    if scaling.type == "longrope":
        trained_context = scaling.trained_context(config.max_position_embeddings)
        return math.sqrt(1.0 + math.log(scaling.factor) / math.log(trained_context))
    return 1.0


def _scale_llama3(frequencies: np.ndarray, scaling: RopeScaling, trained_context: int) -> np.ndarray:
    """Llama 3.1: slow the long wavelengths by `factor`, keep the short ones, blend linearly between the bounds."""
    turns = trained_context * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def _kept_by_yarn(config: ModelConfig, scaling: RopeScaling, trained_context: int) -> np.ndarray:
    """How much of each pair's own frequency yarn keeps, from 1 for the fast pairs to 0 for the slow ones.

    A pair's bound follows from the plain frequencies, whatever they are divided by. Source: YaRN's reference code.
    """
    rotated = config.rotated

    def pair_that_turns(times: float) -> float:
        return rotated * math.log(trained_context / (times * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotated - 1)
    width = last - first or 0.001
    return 1.0 - np.clip((np.arange(rotated // 2) - first) / width, 0.0, 1.0)
