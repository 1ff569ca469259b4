"""Small numbers that share words of 32 bits."""

import numpy as np

BITS_OF_A_WORD = 32


def bytes_of_words(words: np.ndarray) -> np.ndarray:
    """Words [rows, words] as bytes from their lowest bits up, uint8 [rows, 4 * words]: a number, or two of 4 bits."""
    return np.ascontiguousarray(words).view(np.uint8)


def numbers_of_words(words: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of 4 or 8 bits in words [rows, words], first those in the lowest bits: uint8 [rows, numbers]."""
    in_bytes = bytes_of_words(words)
    return in_bytes if bits == 8 else np.stack([in_bytes & 15, in_bytes >> 4], axis=-1).reshape(len(words), -1)


def less_middle(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 0 to 255, uint8, less 128: int8."""
    return (numbers ^ np.uint8(0x80)).view(np.int8)
