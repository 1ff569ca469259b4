"""The choice behind `block_size: auto`."""

ARTICLE_SIZES = ((512, 128), (1024, 256))  # up to this many tokens: a block of that many
LARGEST_ARTICLE_SIZE = 512


def choose_block_size(expected_len: int, head_dim: int, most_numbers: int | None = None) -> tuple[int, str]:
    """Tokens in a block for sequences of `expected_len` tokens, and the reason in words.

    The article's rule (128 up to 512 tokens, 256 up to 1024, else 512), bounded where kernels hold a whole block of one
    head, of at most `most_numbers`: those of Ascend do.
    """
    size = next((size for limit, size in ARTICLE_SIZES if expected_len <= limit), LARGEST_ARTICLE_SIZE)
    reason = f"sequences of up to {expected_len} tokens"
    if most_numbers is not None and size * head_dim > most_numbers:
        bound = most_numbers // head_dim // 16 * 16
        return bound, f"{reason} would take {size}, the Ascend kernel holds {bound} at head_dim {head_dim}"
    return size, reason
