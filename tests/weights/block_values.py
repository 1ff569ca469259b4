"""What the blocks of quantized folders hold, by the formats' definition, number by number."""

import ml_dtypes
import numpy as np

from mindspore_paged.formats.weight_format import WeightFormat


def values_of(blocks: np.ndarray, form: WeightFormat) -> np.ndarray:
    """The weights of blocks, uint8 [rows, bytes of a row], of INT4, INT8 or FP8: float32 [rows, columns]."""
    by_block = blocks.reshape(len(blocks), -1, form.block_bytes)
    return np.array([np.concatenate([_of_block(block.tobytes(), form) for block in row]) for row in by_block])


def _of_block(block: bytes, form: WeightFormat) -> np.ndarray:
    scale = np.frombuffer(block, "<f4", 1)
    if form.name.startswith("FP8"):
        return np.frombuffer(block, ml_dtypes.float8_e4m3fn, offset=4).astype(np.float32) * scale
    if form.name.startswith("INT8"):
        return np.frombuffer(block, np.int8, offset=4).astype(np.float32) * scale
    numbers = np.empty(form.group, np.float32)
    for column in range(form.group):
        byte = block[5 + column // 32 * 16 + column % 16]
        numbers[column] = byte >> 4 if column % 32 >= 16 else byte & 15
    return (numbers - np.float32(block[4])) * scale
