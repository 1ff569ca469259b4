"""Frequencies of rotary position embeddings (Su et al. 2021), with the scalings that stretch them."""

import math

import numpy as np

from mindspore_paged.model_config import ModelConfig, RopeScaling


def rope_tables(config: ModelConfig, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines for positions 0 .. num_positions - 1, each float32 [num_positions, head_dim].

    The two halves of a row are equal: a head is rotated as pairs (i, i + head_dim / 2), Hugging Face's order.
    """
    angles = np.outer(np.arange(num_positions, dtype=np.float64), inverse_frequencies(config))
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Radians per position for each pair of a head, float64 [head_dim / 2], scaled as config.rope_scaling says."""
    scaling, base = config.rope_scaling, config.rope_theta
    if scaling.type == "ntk":
        base *= scaling.factor ** (config.head_dim / (config.head_dim - 2))
    frequencies = base ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    if scaling.type == "linear":
        return frequencies / scaling.factor
    if scaling.type == "llama3":
        return _scale_llama3(frequencies, scaling)
    return frequencies


def _scale_llama3(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1: slow the long wavelengths by `factor`, keep the short ones, blend linearly between the bounds."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor
