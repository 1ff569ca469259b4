"""Folders written by AutoAWQ: numbers of 4 bits, for activations of large channels (Lin et al. 2023).

Source: `WQLinear_GEMM` and `dequantize_gemm` of AutoAWQ 0.2.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import AliasChoices, BeforeValidator, Field, StrictBool

from mindspore_paged.formats.hf_files import HfModel
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight, Numbers, Part
from mindspore_paged.weights.quantized.stored_tensors import INT32, SCALE_DTYPES, StoredTensors
from mindspore_paged.weights.tensor_source import widened

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
        self._stored, self._stem = stored, stem
        qweight, scales, qzeros = (f"{stem}.{part}" for part in ("qweight", "scales", "qzeros"))
        columns, num_words = stored.shape(qweight, INT32, (None, None))
        num_groups, _ = stored.shape(scales, SCALE_DTYPES, (None, num_words * _IN_WORD))
        self._has_qzeros = config.zero_point or stored.has(qzeros)
        if self._has_qzeros:
            stored.shape(qzeros, INT32, (num_groups, num_words))
        self.scale_dtype = stored.dtype(scales)
        self.shape = num_words * _IN_WORD, columns
        self.tensors = (qweight, scales, qzeros) if self._has_qzeros else (qweight, scales)
        self.groups = stored.groups(stem, None, columns, num_groups, config.group_size)

    def part(self, axis: int, start: int, stop: int) -> Part:
        """What the weight has from start to stop of one axis."""
        first, last = widened(start, stop, _IN_WORD) if axis == 0 else (0, self.shape[0])
        own = slice(start - first, stop - first) if axis == 0 else slice(None)
        in_words = (1, first // _IN_WORD, last // _IN_WORD)
        words = self._stored.read_part(f"{self._stem}.qweight", *(in_words if axis == 0 else (0, start, stop)))
        scales = self._stored.read_part(f"{self._stem}.scales", 1, first, last)[:, own].T.astype(np.float32)
        zeros = np.full(scales.shape, 8, np.uint8)
        if self._has_qzeros:
            zeros = _numbers_of_words(self._stored.read_part(f"{self._stem}.qzeros", *in_words))[:, own].T
        return Part(_numbers_of_words(words)[:, own].T, scales, zeros)


def _numbers_of_words(words: np.ndarray) -> np.ndarray:
    """The numbers in words [rows, words]: uint8 [rows, 8 * words]."""
    numbers = np.empty((*words.shape, _IN_WORD), np.uint8)
    for location, number in enumerate(_ORDER):
        numbers[..., number] = words >> 4 * location & 15
    return numbers.reshape(len(words), -1)


def awq_weights(stored: StoredTensors, config: AwqConfig) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together."""
    return {f"{stem}.weight": AwqWeight(stored, stem, config) for stem in stored.stems(".qweight")}
