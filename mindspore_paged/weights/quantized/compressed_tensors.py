"""Folders in the format compressed-tensors, which LLM Compressor writes: numbers of 4 or 8 bits, or float8_e4m3fn.

Source: compressed_tensors.compressors and quantization.quant_config (0.20).
"""

import re
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import HfModel, Size
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight, Numbers, Part
from mindspore_paged.weights.quantized.scaled_weight import INT8, ScaledWeight
from mindspore_paged.weights.quantized.stored_tensors import INT32, SCALE_DTYPES, StoredTensors
from mindspore_paged.weights.quantized.words import BITS_OF_A_WORD, bytes_of_words, less_middle, numbers_of_words
from mindspore_paged.weights.safetensors_files import FLOAT8
from mindspore_paged.weights.tensor_source import widened
from mindspore_paged.wording import shown

_SHAPE_DTYPES = (np.dtype(np.int64), np.dtype(np.int32))


def _from_text(value: Any) -> Any:
    # Old files write "128x128".
    match = re.fullmatch(r"([0-9]{1,8})x([0-9]{1,8})", value) if isinstance(value, str) else None
    return list(map(int, match.groups())) if match else value


class _Weights(HfModel):
    num_bits: Literal[4, 8]
    type: Literal["int", "float"] = "int"
    group_size: Annotated[int, Field(strict=True, ge=-1, le=2**24)] | None = None
    block_structure: Annotated[tuple[Size, Size], BeforeValidator(_from_text)] | None = None
    dynamic: Literal[False] = False

    @model_validator(mode="after")
    def _known(self) -> "_Weights":
        if self.type == "float" and self.num_bits != 8:
            raise ValueError("of 8 bits where it is of type float")
        return self


class _Group(HfModel):
    weights: _Weights | None = None
    output_activations: None = None
    format: Literal["pack-quantized", "int-quantized", "float-quantized", "naive-quantized"] | None = None


class _Sparsity(HfModel):
    format: Literal["dense"]


class _Transforms(HfModel):
    config_groups: Annotated[dict, Field(max_length=0)] | None = None


class CompressedTensorsConfig(HfModel):
    """What says how the tensors are to be read; which weights are quantized (`targets`, `ignore`) they tell themselves.

    How activations are to be rounded (`input_activations`) is not read: they are computed with as they are.
    """

    config_groups: Annotated[dict[str, _Group], Field(max_length=1024)]
    format: Literal["pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision"]
    quantization_status: Literal["compressed"] = "compressed"
    kv_cache_scheme: None = None
    sparsity_config: _Sparsity | Annotated[dict, Field(max_length=0)] | None = None
    transform_config: _Transforms | None = None

    def tiles(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns that a scale of some group stands for."""
        blocks = [each.block_structure for each in self._weights() if each.block_structure]
        return *blocks, *((1, size) for size in self.group_sizes())

    def group_sizes(self) -> tuple[int, ...]:
        """Columns that share a scale in some group."""
        return tuple(each.group_size for each in self._weights() if each.group_size and each.group_size > 0)

    def _weights(self) -> list[_Weights]:
        return [group.weights for group in self.config_groups.values() if group.weights]


class PackedWeight(GroupedWeight):
    """A weight [N, K] stored as weight_packed [N, K / numbers of a word] int32, with weight_scale [N, groups].

    A word has neighbours along K, the first in its lowest bits, each plus half of what its bits can say: so has
    weight_zero_point [N / numbers of a word, groups], along N; without it, that half is the zero point. weight_g_idx
    [K], if there, is the group of each column. weight_shape is [N, K].
    """

    def __init__(self, stored: StoredTensors, stem: str, group_sizes: tuple[int, ...]):
        self._stored, shape, g_idx = stored, f"{stem}.weight_shape", f"{stem}.weight_g_idx"
        self._packed, self._scale, self._zero_point = (
            f"{stem}.weight_{part}" for part in ("packed", "scale", "zero_point")
        )
        rows, num_words = stored.shape(self._packed, INT32, (None, None))
        stored.shape(shape, _SHAPE_DTYPES, (2,))
        said = tuple(stored.read(shape).tolist())
        self.shape = said
        self._bits = next((bits for bits in (4, 8) if _words(said[1], bits) == num_words), 0)
        if said[0] != rows or not self._bits:
            raise CheckpointError(
                f"{stored.path}: tensor {shown(self._packed)} has shape {(rows, num_words)}, but {shown(shape)} says "
                f"{said}; read are numbers of 4 and 8 bits"
            )
        _, num_groups = stored.shape(self._scale, SCALE_DTYPES, (rows, None))
        self.groups = stored.groups(stem, g_idx, said[1], num_groups, self._group_size(num_groups, group_sizes))
        self.scale_dtype = stored.dtype(self._scale)
        self.numbers = Numbers.INT4 if self._bits == 4 else Numbers.INT8
        self._has_zero_point = stored.has(self._zero_point)
        self._zeros_in_words = self._has_zero_point and stored.dtype(self._zero_point) != INT8
        if self._has_zero_point:
            zero_rows = _words(rows, self._bits) if self._zeros_in_words else rows
            stored.shape(self._zero_point, (INT8, *INT32), (zero_rows, num_groups))
        if self._has_zero_point and not self._zeros_in_words and self._bits == 4:
            self._check_zeros()
        self.has_zeros = self._bits == 4 or self._has_zero_point
        self.tensors = tuple(filter(stored.has, (self._packed, self._scale, self._zero_point, g_idx, shape)))

    def part(self, axis: int, start: int, stop: int) -> Part:
        """What the weight has from start to stop of one axis, of columns whole words."""
        rows = (start, stop) if axis == 0 else (0, self.shape[0])
        ends = (0, *rows) if axis == 0 else (1, _words(start, self._bits), _words(stop, self._bits))
        numbers = bytes_of_words(self._stored.read_part(self._packed, *ends))
        scales = self._stored.read_part(self._scale, 0, *rows).astype(np.float32)
        zeros = self._zeros(*rows, scales.shape[1])
        return Part(numbers if self._bits == 4 else less_middle(numbers), scales, zeros)

    def _check_zeros(self) -> None:
        zeros = self._stored.read(self._zero_point)
        if zeros.min() < -8 or zeros.max() > 7:
            raise CheckpointError(
                f"{self._stored.path}: tensor {shown(self._zero_point)} holds {zeros.min()} to {zeros.max()}; zero "
                "points of 4 bits are -8 to 7"
            )

    def _group_size(self, num_groups: int, group_sizes: tuple[int, ...]) -> int:
        """The one of several that gives so many groups, or what divides the columns into as many."""
        columns = self.shape[1]
        exact = columns // num_groups if columns % num_groups == 0 else -1
        return next((size for size in group_sizes if -(-columns // size) == num_groups), exact)

    def _zeros(self, start: int, stop: int, num_groups: int) -> np.ndarray | None:
        """Zero points of some rows, as the numbers are."""
        if not self._has_zero_point:
            return np.full((stop - start, num_groups), 8, np.uint8) if self._bits == 4 else None
        if not self._zeros_in_words:
            zeros = self._stored.read_part(self._zero_point, 0, start, stop)
            return np.uint8(8) + zeros.view(np.uint8) if self._bits == 4 else zeros
        in_word = BITS_OF_A_WORD // self._bits
        first, last = widened(start, stop, in_word)
        words = self._stored.read_part(self._zero_point, 0, first // in_word, last // in_word)
        zeros = numbers_of_words(words.T, self._bits)[:, start - first : stop - first].T
        return zeros if self._bits == 4 else less_middle(zeros)


def compressed_tensors_weights(stored: StoredTensors, config: CompressedTensorsConfig) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together."""
    found: dict[str, GroupedWeight] = {}
    for stem in stored.stems(".weight_packed"):
        found[f"{stem}.weight"] = PackedWeight(stored, stem, config.group_sizes())
    for stem in stored.stems(".weight"):
        if stored.dtype(f"{stem}.weight") in (INT8, FLOAT8):
            found[f"{stem}.weight"] = ScaledWeight(
                stored, stem, f"{stem}.weight_scale", f"{stem}.weight_zero_point", config.tiles()
            )
    return found


def _words(numbers: int, bits: int) -> int:
    return -(-numbers * bits // BITS_OF_A_WORD)
