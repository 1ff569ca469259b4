"""Rounding to blocks of four bits, GGUF's Q4_0, with the scales that lose least: what model.weight_dtype=int4 is."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

GROUP = 32
LOWEST, HIGHEST = -8, 7
STRETCHES = np.arange(-0.8, 1.0, 0.2, np.float32)
"""How much farther than LOWEST the largest number of a group may be rounded to, where the others gain by it."""
_GROUPS_OF_CHUNK = 4096  # half a megabyte, and as much for each step: stays in a core's cache


def quantize_int4(weights: np.ndarray) -> np.ndarray:
    """Weights float32 [..., K] as blocks of Q4_0, uint8 [..., K / 32 * 18]; 32 must divide K.

    Of some ways to round a group's numbers, that which a scale of least squares brings nearest to them. Source:
    least-squares scales as in Frantar et al. 2022, "GPTQ" (round to nearest), and ggml's search over them.
    """
    groups = np.ascontiguousarray(weights, np.float32).reshape(-1, GROUP)
    blocks = np.empty((len(groups), 2 + GROUP // 2), np.uint8)
    starts = range(0, len(groups), _GROUPS_OF_CHUNK)

    def quantize(start: int) -> None:
        part = slice(start, start + _GROUPS_OF_CHUNK)
        blocks[part] = _blocks_of(groups[part])

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of Python's lock
        list(pool.map(quantize, starts))
    return blocks.reshape(*weights.shape[:-1], -1)


def _blocks_of(groups: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # numbers that are infinite or NaN show in the answers
        largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
        best = np.full(len(groups), -1.0, np.float32)
        scales, numbers = np.zeros(len(groups), np.float32), np.zeros(groups.shape, np.float32)
        for stretch in STRETCHES:
            rounded = np.clip(np.rint(groups * ((LOWEST - stretch) / largest)), LOWEST, HIGHEST)
            product, square = (np.einsum("gi,gi->g", rounded, other) for other in (groups, rounded))
            gain = product * product / square  # by which the scale product / square lessens the sum of squares
            better = gain > best
            best[better] = gain[better]
            scales[better] = product[better] / square[better]
            numbers[better] = rounded[better]
        # A group that no scale fits holds what is no number: its own is none either.
        scales[~np.isfinite(groups).all(axis=1)] = np.nan
        stored = scales.astype(np.float16)
        nibbles = (numbers - LOWEST).astype(np.uint8)
    low, high = nibbles[:, : GROUP // 2], nibbles[:, GROUP // 2 :]
    return np.concatenate([stored[:, None].view(np.uint8), low | high << 4], axis=1)
