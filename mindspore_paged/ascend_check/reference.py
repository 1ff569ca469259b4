"""What each operator should give: plain NumPy, sums in float64, token by token."""

import numpy as np

from mindspore_paged.ascend_check.int8_pages import from_cache, pack, quantize, unpack


def attention(
    query, key_cache, value_cache, block_table, rows, context_lens, scale, window=0
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax(q K^T scale) V of each token over its row, or a window of it, and of what size the terms of the sum are.

    Shapes as of PagedAttention. Returns two float64 [T, H, D]: the result, and sum_i p_i |v_i|, by which an error is to
    be judged: that of a sum whose terms cancel is no smaller for it. Both are zero for a token without context, and for
    padding whatever context it states.
    """
    key_cache, value_cache = from_cache(key_cache), from_cache(value_cache)
    block_size, group = key_cache.shape[1], query.shape[1] // key_cache.shape[2]
    output, magnitude = np.zeros(query.shape), np.zeros(query.shape)
    for token, (row, context) in enumerate(zip(rows, context_lens, strict=True)):
        if context == 0 or row < 0:
            continue
        positions = np.arange(max(0, context - window) if window else 0, context)
        places = block_table[row, positions // block_size], positions % block_size
        keys, values = key_cache[places].astype(np.float64), value_cache[places].astype(np.float64)
        for head in range(query.shape[1]):
            scores = keys[:, head // group] @ query[token, head].astype(np.float64) * scale
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            output[token, head] = weights @ values[:, head // group]
            magnitude[token, head] = weights @ np.abs(values[:, head // group])
    return output, magnitude


def reshape_and_cache(key, value, key_cache, value_cache, slot_mapping) -> tuple[np.ndarray, np.ndarray]:
    """The caches [NB, BS, K, D] after the tokens are stored, each rounded to the nearest of the caches' type.

    Of int8, [NB, BS, K, D + 4], each head of a token is stored by its own scale.
    """
    if key_cache.dtype == np.int8:
        return tuple(
            _store_quantized(tokens, cache, slot_mapping) for tokens, cache in ((key, key_cache), (value, value_cache))
        )
    stored = []
    for tokens, cache in ((key, key_cache), (value, value_cache)):
        slots = cache.reshape(-1, *cache.shape[2:]).copy()
        for token, slot in zip(tokens, slot_mapping, strict=True):
            if slot >= 0:
                slots[slot] = token.astype(cache.dtype)
        stored.append(slots.reshape(cache.shape))
    return stored[0], stored[1]


def _store_quantized(tokens, cache, slot_mapping) -> np.ndarray:
    values, scales = (part.copy() for part in unpack(cache))
    for token, slot in zip(tokens, slot_mapping, strict=True):
        if slot >= 0:
            place = slot // cache.shape[1], slot % cache.shape[1]
            values[place], scales[place] = quantize(token)
    return pack(values, scales)


def copy_blocks(key_cache, value_cache, pairs) -> tuple[np.ndarray, np.ndarray]:
    """The caches after the copies (source, destination), done in order; -1 is none."""
    copied = key_cache.copy(), value_cache.copy()
    for source, destination in pairs:
        if source >= 0:
            for cache in copied:
                cache[destination] = cache[source]
    return copied


def read_blocks(key_cache, value_cache, block_ids) -> np.ndarray:
    """The blocks [2, P, BS, K, D], keys and then values."""
    return np.stack([cache[block_ids] for cache in (key_cache, value_cache)])


def write_blocks(key_cache, value_cache, pages, block_ids, layer) -> tuple[np.ndarray, np.ndarray]:
    """The caches after one layer's pages are put into their blocks; -1 is none."""
    written = key_cache.copy(), value_cache.copy()
    for page, block in enumerate(block_ids):
        if block >= 0:
            for which, cache in enumerate(written):
                cache[block] = pages[layer, which, page]
    return written
