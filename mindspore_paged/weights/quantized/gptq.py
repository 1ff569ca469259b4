"""Folders written by AutoGPTQ and GPTQModel: numbers of 4 or 8 bits, found by the GPTQ algorithm (Frantar et al. 2023).

Source: `pack` and `dequantize_weight` of gptqmodel.nn_modules.qlinear (GPTQModel 7), `QuantLinear` of AutoGPTQ 0.7.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import HfModel
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight, Numbers, Part
from mindspore_paged.weights.quantized.stored_tensors import INT32, SCALE_DTYPES, StoredTensors
from mindspore_paged.weights.quantized.words import BITS_OF_A_WORD, bytes_of_words, less_middle, numbers_of_words
from mindspore_paged.weights.tensor_source import widened
from mindspore_paged.wording import shown

_ONE_OF_EACH = {4: np.uint32(0x11111111), 8: np.uint32(0x01010101)}
_MIDDLE_OF_EACH = np.uint32(0x80808080)


class GptqConfig(HfModel):
    """What says how the tensors are to be read; modules that differ (`dynamic`) show it by their tensors.

    checkpoint_format: "gptq" has zero points less one, "gptq_v2" as they are.
    """

    bits: Literal[4, 8]
    group_size: Annotated[int, Field(strict=True, ge=-1, le=2**24)] = -1
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    pack_dtype: Literal["int32"] = "int32"
    is_marlin_format: Literal[False] = False
    adapter: None = None
    rotation: None = None


class GptqWeight(GroupedWeight):
    """A weight [N, K] stored as qweight [K / numbers of a word, N] int32, with scales [groups, N].

    A word has neighbours along K, the first in its lowest bits; of the zero points in qzeros [groups, N / numbers of a
    word] along N. g_idx [K], if there, is the group of each column: any with act-order, else runs of the group size.
    """

    def __init__(self, stored: StoredTensors, stem: str, config: GptqConfig):
        self._stored, self._is_offset = stored, config.checkpoint_format == "gptq"
        self._qweight, self._scales, self._qzeros, g_idx = (
            f"{stem}.{part}" for part in ("qweight", "scales", "qzeros", "g_idx")
        )
        num_words, rows = stored.shape(self._qweight, INT32, (None, None))
        num_groups, _ = stored.shape(self._scales, SCALE_DTYPES, (None, rows))
        _, zero_words = stored.shape(self._qzeros, INT32, (num_groups, None))
        self._bits = next((bits for bits in (4, 8) if rows * bits == zero_words * BITS_OF_A_WORD), 0)
        if not self._bits:
            raise CheckpointError(
                f"{stored.path}: tensor {shown(self._qzeros)} has {zero_words} words for {rows} rows; read are numbers "
                "of 4 and 8 bits"
            )
        self._in_word = BITS_OF_A_WORD // self._bits
        self.shape = rows, num_words * self._in_word
        self.groups = stored.groups(stem, g_idx, self.shape[1], num_groups, config.group_size)
        self.tensors = tuple(filter(stored.has, (self._qweight, self._scales, self._qzeros, g_idx)))
        self.scale_dtype = stored.dtype(self._scales)
        self.numbers = Numbers.INT4 if self._bits == 4 else Numbers.INT8
        self.has_zeros = self._bits == 4 or not self._is_symmetric()

    def part(self, axis: int, start: int, stop: int) -> Part:
        """What the weight has from start to stop of one axis, of columns whole words."""
        rows = (start, stop) if axis == 0 else (0, self.shape[0])
        ends = (1, *rows) if axis == 0 else (0, start // self._in_word, stop // self._in_word)
        numbers = bytes_of_words(self._stored.read_part(self._qweight, *ends).T)
        scales = self._stored.read_part(self._scales, 1, *rows)
        first, last = (end // self._in_word for end in widened(*rows, self._in_word))
        zeros = numbers_of_words(self._true_zeros(first, last), self._bits)
        zeros = zeros[:, rows[0] - first * self._in_word : rows[1] - first * self._in_word]
        if self._bits == 8:
            numbers, zeros = less_middle(numbers), less_middle(zeros)
        return Part(numbers, scales.T.astype(np.float32), zeros.T if self.has_zeros else None)

    def _true_zeros(self, first: int, last: int) -> np.ndarray:
        """The words from first to last of zero points, in each group."""
        words = self._stored.read_part(self._qzeros, 1, first, last).view(np.uint32)
        # One is added to the word: as GPTQModel took it away, with borrowing where a zero point was 0.
        return words + _ONE_OF_EACH[self._bits] if self._is_offset else words

    def _is_symmetric(self) -> bool:
        """Whether every zero point is 128, so that numbers of 8 bits with a sign are all that there is."""
        return bool((self._true_zeros(0, self.shape[0] // self._in_word) == _MIDDLE_OF_EACH).all())


def gptq_weights(stored: StoredTensors, config: GptqConfig) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together."""
    return {f"{stem}.weight": GptqWeight(stored, stem, config) for stem in stored.stems(".qweight")}
