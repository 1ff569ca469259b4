"""Caches of int8 in plain NumPy: how a head is quantized, and how a page holds values and scales."""

import numpy as np

SCALE_BYTES = 4
SMALLEST_NORMAL = np.finfo(np.float32).tiny


def to_cache(vectors: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What a cache of `dtype` holds once vectors [NB, BS, K, D] were stored in it: [NB, BS, K, D], of int8 D + 4."""
    return pack(*quantize(vectors)) if dtype == np.int8 else vectors.astype(dtype)


def from_cache(cache: np.ndarray) -> np.ndarray:
    """The numbers [NB, BS, K, D] that a cache stands for: as they are, or of int8 pages in float64."""
    if cache.dtype != np.int8:
        return cache
    values, scales = unpack(cache)
    return values * scales[..., None].astype(np.float64)


def quantize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [..., D] -> int8 [..., D] and float32 scales [...]: each vector's largest magnitude / 127, or 0, or NaN.

    As custom_ops/ops.py defines it: ties go to the even number; a scale that is no normal number is 0, that of a vector
    with an infinity or NaN is NaN, and the values are 0 in both cases.
    """
    wide = vectors.astype(np.float32)
    finite = np.isfinite(wide).all(axis=-1)
    wide = np.where(finite[..., None], wide, 0)
    scales = np.abs(wide).max(axis=-1) / np.float32(127)
    scales = np.where(scales < SMALLEST_NORMAL, np.float32(0), scales)
    values = np.rint(wide / np.where(scales == 0, np.float32(np.inf), scales)[..., None])
    return values.astype(np.int8), np.where(finite, scales, np.float32(np.nan)).astype(np.float32)


def pack(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Values [NB, BS, K, D] and scales [NB, BS, K] -> a cache [NB, BS, K, D + 4]: of each block the values first."""
    num_blocks = len(values)
    stored = np.concatenate([values.reshape(num_blocks, -1), scales.reshape(num_blocks, -1).view(np.int8)], axis=1)
    return stored.reshape(*values.shape[:-1], values.shape[-1] + SCALE_BYTES)


def unpack(cache: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values [NB, BS, K, D] and scales [NB, BS, K] of a cache."""
    num_blocks, block_size, kv_heads, width = cache.shape
    flat, num_values = cache.reshape(num_blocks, -1), block_size * kv_heads * (width - SCALE_BYTES)
    values = flat[:, :num_values].reshape(num_blocks, block_size, kv_heads, width - SCALE_BYTES)
    scales = np.ascontiguousarray(flat[:, num_values:]).view(np.float32)
    return values, scales.reshape(num_blocks, block_size, kv_heads)
