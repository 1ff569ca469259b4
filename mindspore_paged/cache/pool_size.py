"""How many blocks a memory budget holds, and a sequence needs: plain arithmetic, for plans without MindSpore."""

from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Bytes of an element of a page, or of a weight, by its type."""

SCALE_BYTES = {"int8": 4}
"""What a head of a token has in a page beside its elements, where it has: its float32 scale."""


def page_bytes_per_token(model: ModelConfig, kv_cache_dtype: str) -> int:
    """Bytes that one token's keys and values take in the pages of all layers."""
    return model.kv_bytes_per_token(ITEM_SIZES[kv_cache_dtype], SCALE_BYTES.get(kv_cache_dtype, 0))


def most_blocks(num_tokens: int, block_size: int, window: int = 0, chunk_tokens: int | None = None) -> int:
    """Blocks that a sequence holds at most at once while it grows to `num_tokens` tokens.

    window: behind so many tokens blocks are given back; 0 = none are. chunk_tokens: what one step adds at most; None:
    all at once.
    """
    blocks = -(-num_tokens // block_size)
    if not window or chunk_tokens is None:
        return blocks
    # The window of a chunk's first token and the chunk, of which the first and the last block may be partly used.
    return min(blocks, 1 + -(-(window + chunk_tokens - 1) // block_size))


def num_blocks_for_budget(memory_budget: int, bytes_per_token: int, block_size: int) -> int:
    """Blocks, null block included, that fit in `memory_budget` bytes; raises ConfigError below two."""
    num_blocks = memory_budget // (bytes_per_token * block_size)
    if num_blocks < 2:
        raise ConfigError(
            f"cache.memory_budget of {memory_budget} bytes holds {num_blocks} blocks of {block_size} tokens; "
            f"at least 2 need {2 * bytes_per_token * block_size} bytes"
        )
    return num_blocks
