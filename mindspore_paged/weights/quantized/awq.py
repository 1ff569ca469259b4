"""Folders written by AutoAWQ: numbers of 4 bits, for activations of large channels (Lin et al. 2023).

Source: `WQLinear_GEMM` and `dequantize_gemm` of AutoAWQ 0.2.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import AliasChoices, BeforeValidator, Field, StrictBool

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import HfModel
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight, Numbers, Part
from mindspore_paged.weights.quantized.stored_tensors import INT32, SCALE_DTYPES, StoredTensors
from mindspore_paged.weights.tensor_source import widened
from mindspore_paged.wording import shown

_IN_WORD = 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours stands in each four bits of a word, from the lowest up."""


def _lower(value):
    return value.lower() if isinstance(value, str) else value


class AwqConfig(HfModel):
    """What says how the tensors are to be read, by config.json's names or those of AutoAWQ's own file."""

    bits: Literal[4] = Field(4, validation_alias=AliasChoices("bits", "w_bit"))
    group_size: Annotated[int, Field(strict=True, ge=-1, le=2**24)] = Field(
        128, validation_alias=AliasChoices("group_size", "q_group_size")
    )
    version: Annotated[Literal["gemm"], BeforeValidator(_lower)] = "gemm"
    zero_point: StrictBool = True


class AwqWeight(GroupedWeight):
    """A weight [N, K] stored as qweight [K, N / 8] int32, scales [groups, N] and qzeros [groups, N / 8].

    A word has eight neighbours along N in the order _ORDER. Without qzeros, which only `zero_point: false` allows,
    every zero point is 8.
    """

    numbers = Numbers.INT4
    has_zeros = True

    def __init__(self, stored: StoredTensors, stem: str, config: AwqConfig):
        self._stored = stored
        self._qweight, self._scales, self._qzeros = (f"{stem}.{part}" for part in ("qweight", "scales", "qzeros"))
        columns, num_words = stored.shape(self._qweight, INT32, (None, None))
        if columns % 2:
            raise CheckpointError(f"{stored.path}: tensor {shown(self._qweight)} has {columns} rows; they must be even")
        num_groups, _ = stored.shape(self._scales, SCALE_DTYPES, (None, num_words * _IN_WORD))
        self._has_qzeros = config.zero_point or stored.has(self._qzeros)
        if self._has_qzeros:
            stored.shape(self._qzeros, INT32, (num_groups, num_words))
        self.scale_dtype = stored.dtype(self._scales)
        self.shape = num_words * _IN_WORD, columns
        self.tensors = tuple(filter(stored.has, (self._qweight, self._scales, self._qzeros)))
        self.groups = stored.groups(stem, None, columns, num_groups, config.group_size)

    def part(self, axis: int, start: int, stop: int) -> Part:
        """What the weight has from start to stop of one axis, of columns whole words."""
        rows = (start, stop) if axis == 0 else (0, self.shape[0])
        first, last = widened(*rows, _IN_WORD)
        own, in_words = slice(rows[0] - first, rows[1] - first), (1, first // _IN_WORD, last // _IN_WORD)
        words = self._stored.read_part(self._qweight, *(in_words if axis == 0 else (0, start, stop)))
        scales = self._stored.read_part(self._scales, 1, *rows).T.astype(np.float32)
        zeros = np.full(scales.shape, 8, np.uint8)
        if self._has_qzeros:
            zeros = _transposed(self._stored.read_part(self._qzeros, *in_words))[own]
        # Bytes with the numbers of a column for two rows become such with those of a row for two columns.
        return Part(_pairs_of_columns(words)[own], scales, zeros)


def _transposed(words: np.ndarray) -> np.ndarray:
    """The numbers in words [columns, words]: uint8 [8 * words, columns]."""
    numbers = np.empty((words.shape[1], _IN_WORD, len(words)), np.uint8)
    for location, number in enumerate(_ORDER):
        numbers[:, number] = (words >> 4 * location & 15).T
    return numbers.reshape(-1, len(words))


def _pairs_of_columns(words: np.ndarray) -> np.ndarray:
    """The same, numbers of two neighbouring columns in a byte: uint8 [8 * words, columns / 2]."""
    by_byte = np.ascontiguousarray(words).view(np.uint8).reshape(len(words) // 2, 2, words.shape[1], 4)
    even, odd = np.ascontiguousarray(by_byte.transpose(1, 2, 3, 0))
    pairs = np.empty((words.shape[1], _IN_WORD, len(words) // 2), np.uint8)
    pairs[:, _ORDER[::2]] = even & 15 | odd << 4
    pairs[:, _ORDER[1::2]] = even >> 4 | odd & 0xF0
    return pairs.reshape(-1, pairs.shape[2])


def awq_weights(stored: StoredTensors, config: AwqConfig) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together."""
    return {f"{stem}.weight": AwqWeight(stored, stem, config) for stem in stored.stems(".qweight")}
