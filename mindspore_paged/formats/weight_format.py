"""How a model holds a weight in memory: as floats, or as the blocks of a GGUF file."""

import math
from dataclasses import dataclass

import gguf
import ml_dtypes
import numpy as np

from mindspore_paged.errors import CheckpointError

BLOCK_WEIGHTS = 32


@dataclass(frozen=True)
class WeightFormat:
    """The form that a weight [..., columns] has in memory.

    kind: GGML's number for it. dtype: of the array that holds it; blocks are uint8 [..., bytes of a row].
    block_bytes: of 32 neighbours in a row, their scale included; 0 for floats.
    """

    name: str
    kind: int
    dtype: np.dtype
    block_bytes: int = 0

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in memory of a weight; raises CheckpointError for rows that blocks do not divide."""
        if not self.block_bytes:
            return tuple(shape)
        if shape[-1] % BLOCK_WEIGHTS:
            raise CheckpointError(
                f"a weight of shape {tuple(shape)} cannot be held as {self.name}: its rows must be a multiple of "
                f"{BLOCK_WEIGHTS} long"
            )
        return (*shape[:-1], shape[-1] // BLOCK_WEIGHTS * self.block_bytes)

    def logical_shape(self, stored_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the weight that has `stored_shape` in memory."""
        if not self.block_bytes:
            return tuple(stored_shape)
        return (*stored_shape[:-1], stored_shape[-1] // self.block_bytes * BLOCK_WEIGHTS)

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes in memory of a weight of `shape`; raises CheckpointError as `stored_shape` does."""
        return math.prod(self.stored_shape(shape)) * self.dtype.itemsize

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """`weights`, of any floating type, rounded to this form."""
        if self.block_bytes:
            wide = np.ascontiguousarray(weights, np.float32)
            return gguf.quantize(wide, gguf.GGMLQuantizationType(self.kind))
        return np.ascontiguousarray(weights).astype(self.dtype)


FLOAT32 = WeightFormat("float32", int(gguf.GGMLQuantizationType.F32), np.dtype(np.float32))
FLOAT16 = WeightFormat("float16", int(gguf.GGMLQuantizationType.F16), np.dtype(np.float16))
BF16 = WeightFormat("bfloat16", int(gguf.GGMLQuantizationType.BF16), np.dtype(ml_dtypes.bfloat16))
INT8 = WeightFormat("int8", int(gguf.GGMLQuantizationType.Q8_0), np.dtype(np.uint8), block_bytes=34)
"""Whole numbers of 8 bits, a float16 scale for each 32 neighbours: GGUF's Q8_0."""
Q4_0 = WeightFormat("Q4_0", int(gguf.GGMLQuantizationType.Q4_0), np.dtype(np.uint8), block_bytes=18)
Q4_1 = WeightFormat("Q4_1", int(gguf.GGMLQuantizationType.Q4_1), np.dtype(np.uint8), block_bytes=20)

BYTES = WeightFormat("bytes", -1, np.dtype(np.uint8))
"""Blocks as they come: those of an exported model, whose graph knows their kind."""

FORMATS = {weights.name: weights for weights in (FLOAT32, FLOAT16, BF16, INT8, Q4_0, Q4_1)}
BLOCK_FORMATS = {weights.kind: weights for weights in FORMATS.values() if weights.block_bytes}
"""By GGML's number."""
