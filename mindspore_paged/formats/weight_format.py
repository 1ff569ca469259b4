"""How a model holds a weight in memory, a row a format: floats, or blocks of few bits with scales of their own."""

import math
from dataclasses import dataclass

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as Quantization

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.int4 import quantize_int4


@dataclass(frozen=True)
class WeightFormat:
    """The form that a weight [..., columns] has in memory.

    name: as files and configurations call it. kind: GGML's number for it, or one from 100 on. dtype: of the array that
    holds it; blocks are uint8 [..., bytes of a row]. group: neighbours in a row that a block holds; block_bytes: of a
    block, its scales included; 0 for floats.
    """

    name: str
    kind: int
    dtype: np.dtype
    group: int = 1
    block_bytes: int = 0

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in memory of a weight; raises CheckpointError for rows that blocks do not divide."""
        if not self.block_bytes:
            return tuple(shape)
        if shape[-1] % self.group:
            raise CheckpointError(
                f"a weight of shape {tuple(shape)} cannot be held as {self.name}: its rows must be a multiple of "
                f"{self.group} long"
            )
        return (*shape[:-1], self.row_bytes(shape[-1]))

    def logical_shape(self, stored_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the weight that has `stored_shape` in memory."""
        if not self.block_bytes:
            return tuple(stored_shape)
        return (*stored_shape[:-1], stored_shape[-1] // self.block_bytes * self.group)

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes in memory of a weight of `shape`; raises CheckpointError as `stored_shape` does."""
        return math.prod(self.stored_shape(shape)) * self.dtype.itemsize

    def row_bytes(self, columns: int) -> int:
        """Bytes of so many neighbours in a row, a multiple of `group`."""
        return columns // self.group * self.block_bytes if self.block_bytes else columns * self.dtype.itemsize

    def divides(self, *columns: int) -> bool:
        """Whether rows can be cut at all of these columns without cutting a block."""
        return all(column % self.group == 0 for column in columns)

    def has_bytes_of(self, other: "WeightFormat") -> bool:
        """Whether a weight is the same bytes in both."""
        return self == other or (self.dtype == other.dtype and not self.block_bytes and not other.block_bytes)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """`weights`, of any floating type, rounded to this form; NotImplementedError where nobody rounds to it."""
        if self.block_bytes:
            wide = np.ascontiguousarray(weights, np.float32)
            return (
                quantize_int4(wide) if self.kind == Quantization.Q4_0 else gguf.quantize(wide, Quantization(self.kind))
            )
        return np.ascontiguousarray(weights).astype(self.dtype, copy=False)


def _floats(name: str, kind: int, dtype: type) -> WeightFormat:
    return WeightFormat(name, int(kind), np.dtype(dtype))


def _blocks(name: str, kind: int, group: int, block_bytes: int) -> WeightFormat:
    return WeightFormat(name, kind, np.dtype(np.uint8), group, block_bytes)


def _of_gguf(kind: Quantization, name: str = "") -> WeightFormat:
    """Source: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md."""
    return _blocks(name or kind.name, int(kind), *gguf.GGML_QUANT_SIZES[kind])


FLOAT32 = _floats("float32", Quantization.F32, np.float32)
FLOAT16 = _floats("float16", Quantization.F16, np.float16)
BF16 = _floats("bfloat16", Quantization.BF16, ml_dtypes.bfloat16)
W16A16 = _floats("w16a16", 107, ml_dtypes.bfloat16)
"""bfloat16 that is multiplied with tokens rounded to bfloat16, where the CPU has such products and no tiles."""
INT8 = _of_gguf(Quantization.Q8_0, "int8")
"""Whole numbers of 8 bits, a float16 scale for each 32 neighbours: GGUF's Q8_0."""
Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4 = (
    _of_gguf(kind)
    for kind in (
        Quantization.Q4_0, Quantization.Q4_1, Quantization.Q5_0, Quantization.Q5_1, Quantization.Q2_K,
        Quantization.Q3_K, Quantization.Q4_K, Quantization.Q5_K, Quantization.Q6_K, Quantization.IQ4_NL,
        Quantization.IQ4_XS, Quantization.MXFP4,
    )
)  # fmt: skip

INT4_G32, INT4_G64, INT4_G128 = (
    _blocks(f"INT4_G{group}", 100 + row, group, 5 + group // 2) for row, group in enumerate((32, 64, 128))
)
"""{float32 scale; uint8 zero; 4 bits a weight}: (number - zero) * scale; of 32 neighbours the first 16 are low bits."""
INT8_G32, INT8_G128 = (_blocks(f"INT8_G{group}", 103 + row, group, 4 + group) for row, group in enumerate((32, 128)))
"""{float32 scale; int8 numbers}: number * scale."""
FP8_G32, FP8_G128 = (_blocks(f"FP8_G{group}", 105 + row, group, 4 + group) for row, group in enumerate((32, 128)))
"""{float32 scale; float8_e4m3fn numbers}: number * scale."""

BYTES = WeightFormat("bytes", -1, np.dtype(np.uint8))
"""Blocks as they come: those of an exported model, whose graph knows their kind."""

ROWS = (
    FLOAT32, FLOAT16, BF16, W16A16, INT8,
    Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4,
    INT4_G32, INT4_G64, INT4_G128, INT8_G32, INT8_G128, FP8_G32, FP8_G128,
)  # fmt: skip
"""All that the kernels of `custom_ops` read: cpu/linear/formats.h has the same rows."""

FORMATS = {form.name: form for form in ROWS}
BLOCK_FORMATS = {form.kind: form for form in ROWS if form.block_bytes}
"""By GGML's number."""
