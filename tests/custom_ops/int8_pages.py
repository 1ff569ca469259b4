"""Caches of int8 in plain NumPy: how vectors are quantized, and how a page holds values and scales."""

import numpy as np

SCALE_BYTES = 4
SMALLEST_NORMAL = np.finfo(np.float32).tiny


def quantize(vectors):
    """Vectors [..., D] of any float type -> int8 [..., D] and float32 scales [...], whose product is near them.

    The scale is max|x| / 127 in float32, 0 if that is no normal number, NaN if any x is infinite or NaN; in both cases
    the values are 0.
    """
    wide = vectors.astype(np.float32)
    finite = np.isfinite(wide).all(axis=-1)
    wide = np.where(finite[..., None], wide, 0)
    scales = np.abs(wide).max(axis=-1) / np.float32(127)
    scales = np.where(scales < SMALLEST_NORMAL, np.float32(0), scales)
    divisors = np.where(scales == 0, np.float32(np.inf), scales)
    values = np.rint(wide / divisors[..., None])
    assert np.abs(values).max(initial=0) <= 127, "nothing is clipped"
    return values.astype(np.int8), np.where(finite, scales, np.float32(np.nan)).astype(np.float32)


def pack(values, scales):
    """Values [NB, BS, K, D] and scales [NB, BS, K] -> a cache [NB, BS, K, D + 4], of each block the values first."""
    blocks = [v.tobytes() + s.tobytes() for v, s in zip(values, scales, strict=True)]
    shape = (*values.shape[:-1], values.shape[-1] + SCALE_BYTES)
    return np.frombuffer(b"".join(blocks), np.int8).reshape(shape).copy()


def unpack(cache):
    """The values [NB, BS, K, D] and scales [NB, BS, K] of a cache."""
    num_blocks, block_size, kv_heads, width = cache.shape
    flat = cache.reshape(num_blocks, -1)
    num_values = block_size * kv_heads * (width - SCALE_BYTES)
    values = flat[:, :num_values].reshape(num_blocks, block_size, kv_heads, width - SCALE_BYTES)
    scales = np.ascontiguousarray(flat[:, num_values:]).view(np.float32).reshape(num_blocks, block_size, kv_heads)
    return values, scales


def to_cache(vectors, dtype):
    """What a cache of `dtype` holds once [NB, BS, K, D] were stored in it."""
    return pack(*quantize(vectors)) if dtype == np.int8 else vectors.astype(dtype)


def from_cache(cache):
    """The numbers [NB, BS, K, D] that a cache of any type stands for, in float64."""
    if cache.dtype != np.int8:
        return cache.astype(np.float64)
    values, scales = unpack(cache)
    return values * scales[..., None].astype(np.float64)
