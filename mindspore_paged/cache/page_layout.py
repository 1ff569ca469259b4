"""How the elements of a page stand, for whoever takes a page apart by KV heads: pages of int8 keep their scales apart.

Shapes: pages are [..., BS, K, W], BS block_size, K KV heads, W elements a head. Of int8, W is head_dim + 4: stored, all
values of [BS, K, head_dim] come first and then all scales of [BS, K], each four bytes.
"""

import numpy as np

SCALE_ELEMENTS = 4


def by_heads(page: np.ndarray) -> np.ndarray:
    """A stored page with everything of a head in its place [..., BS, K, W]: of int8, its values and then its scale."""
    if page.dtype != np.int8:
        return page
    *outer, block_size, num_kv_heads, width = page.shape
    flat = page.reshape(*outer, -1)
    num_scales = block_size * num_kv_heads * SCALE_ELEMENTS
    values = flat[..., :-num_scales].reshape(*outer, block_size, num_kv_heads, width - SCALE_ELEMENTS)
    scales = flat[..., -num_scales:].reshape(*outer, block_size, num_kv_heads, SCALE_ELEMENTS)
    return np.concatenate([values, scales], axis=-1)


def as_stored(page: np.ndarray) -> np.ndarray:
    """What `by_heads` was made from."""
    if page.dtype != np.int8:
        return page
    outer = page.shape[:-3]
    parts = page[..., :-SCALE_ELEMENTS], page[..., -SCALE_ELEMENTS:]
    return np.concatenate([part.reshape(*outer, -1) for part in parts], axis=-1).reshape(page.shape)


def scales_of(page: np.ndarray) -> np.ndarray:
    """The scales of a stored page of int8: float32, those of each [BS, K] in a row."""
    *outer, block_size, num_kv_heads, _ = page.shape
    flat = page.reshape(*outer, -1)
    return np.ascontiguousarray(flat[..., -block_size * num_kv_heads * SCALE_ELEMENTS :]).view(np.float32)
