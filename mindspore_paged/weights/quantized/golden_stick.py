"""Folders written by MindSpore Golden Stick for MindFormers: int8 with a scale for each row.

Source: `quant_type_dict` and `SafeTensorsMgr` of mindspore_gs.ptq (1.4).
"""

from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import HfModel
from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight
from mindspore_paged.weights.quantized.scaled_weight import INT8, ScaledWeight
from mindspore_paged.weights.quantized.stored_tensors import INT32, SCALE_DTYPES, StoredTensors
from mindspore_paged.wording import shown

_OF_ACTIVATIONS = ("input_offset", "deq_scale", "quant_bias")
"""What rounds activations to 8 bits beside input_scale, and takes back from sums what that adds."""


class GoldenStickConfig(HfModel):
    """quantization_description.json: by the name of each tensor what it is part of."""

    types: dict[str, Literal["FLOAT", "W8A16", "W8A8", "W8A8_DYNAMIC"]]

    @model_validator(mode="before")
    @classmethod
    def _of_tensors(cls, data: Any) -> Any:
        return {"types": {key: value for key, value in data.items() if key != "quantization"}}


class GoldenStickWeight(ScaledWeight):
    """A weight [N, K] stored as int8, times weight_scale [N], times smooth_scale [K] if that is there.

    Activations are divided by smooth_scale before they are rounded to 8 bits; here the weight is multiplied with it.
    """

    def __init__(self, stored: StoredTensors, stem: str):
        offset, smooth = f"{stem}.weight_offset", f"{stem}.smooth_scale"
        super().__init__(stored, stem, f"{stem}.weight_scale")
        if stored.has(offset):
            stored.shape(offset, INT32, self.shape[:1])
            if stored.read(offset).any():
                raise CheckpointError(f"{stored.path}: tensor {shown(offset)} is not zero, which it must be")
        self._smooth = None
        if stored.has(smooth):
            stored.shape(smooth, SCALE_DTYPES, self.shape[1:])
            factors = stored.read(smooth).astype(np.float32)
            self._smooth = factors if (factors != 1).any() else None
        others = (offset, smooth, *(f"{stem}.{part}" for part in _OF_ACTIVATIONS))
        self.tensors = (*self.tensors, *filter(stored.has, others))

    def block_format(self, start: int, stop: int) -> WeightFormat | None:
        """The blocks that hold the columns from start to stop exactly; None where each has a factor of its own."""
        return None if self._smooth is not None else super().block_format(start, stop)

    def read_part(self, axis: int, start: int, stop: int) -> np.ndarray:
        """From start to stop of one axis, dequantized: float32."""
        weights = super().read_part(axis, start, stop)
        if self._smooth is not None:
            weights *= self._smooth[start:stop] if axis else self._smooth
        return weights


def golden_stick_weights(stored: StoredTensors, _config: GoldenStickConfig) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together."""
    return {
        f"{stem}.weight": GoldenStickWeight(stored, stem)
        for stem in stored.stems(".weight")
        if stored.dtype(f"{stem}.weight") == INT8
    }
