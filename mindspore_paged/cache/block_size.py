"""The choice behind `block_size: auto`."""

ARTICLE_SIZES = ((512, 128), (1024, 256))  # up to this many tokens: a block of that many
LARGEST_ARTICLE_SIZE = 512


def choose_block_size(expected_len: int, tokens_in_a_copy: int | None = None) -> tuple[int, str]:
    """Tokens in a block for sequences of `expected_len` tokens, and the reason in words.

    The article's rule (128 up to 512 tokens, 256 up to 1024, else 512), bounded where kernels bring at most
    `tokens_in_a_copy` of a block at a time, as those of Ascend do: a longer one is brought in pieces, and more of it is
    empty.
    """
    size = next((size for limit, size in ARTICLE_SIZES if expected_len <= limit), LARGEST_ARTICLE_SIZE)
    reason = f"sequences of up to {expected_len} tokens"
    if tokens_in_a_copy is not None and size > tokens_in_a_copy:
        return (
            tokens_in_a_copy,
            f"{reason} would take {size}, but one copy of the Ascend kernel brings {tokens_in_a_copy}",
        )
    return size, reason
