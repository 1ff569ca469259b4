"""Small numbers that share words of 32 bits."""

import numpy as np

BITS_OF_A_WORD = 32


def numbers_of_words(words: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of 4 or 8 bits in words [rows, words], first those in the lowest bits: uint8 [rows, numbers]."""
    in_bytes = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return in_bytes
    numbers = np.empty((*in_bytes.shape, 2), np.uint8)
    np.bitwise_and(in_bytes, 15, out=numbers[..., 0])
    np.right_shift(in_bytes, 4, out=numbers[..., 1])
    return numbers.reshape(len(words), -1)


def less_middle(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 0 to 255, uint8, less 128: int8."""
    return (numbers ^ np.uint8(0x80)).view(np.int8)
