"""How much of a text that grows is held back until it is known what follows."""

MAX_HELD = 64
"""Characters of white space that are held back at most."""


def trimmed(text: str) -> str:
    """Without the white space at its end, of which at most MAX_HELD characters go."""
    return text[: max(len(text.rstrip()), len(text) - MAX_HELD)]


def safe_length(text: str, marker: str) -> int:
    """Characters of `text` that are no beginning of `marker`, which is not in it, nor white space before one."""
    longest = min(len(marker) - 1, len(text))
    begun = next((length for length in range(longest, 0, -1) if text.endswith(marker[:length])), 0)
    return len(trimmed(text[: len(text) - begun]))
