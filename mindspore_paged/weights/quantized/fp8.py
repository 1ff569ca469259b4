"""Folders of DeepSeek, Qwen and AutoFP8: weights of float8_e4m3fn with a scale for each tile, or for all.

Source: transformers.integrations.finegrained_fp8 (4.57), `Fp8LinearMethod` of vLLM.
"""

from typing import Annotated, Literal

from pydantic import Field

from mindspore_paged.formats.hf_files import HfModel, Size
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight
from mindspore_paged.weights.quantized.scaled_weight import ScaledWeight
from mindspore_paged.weights.quantized.stored_tensors import StoredTensors
from mindspore_paged.weights.safetensors_files import FLOAT8


class Fp8Config(HfModel):
    """What says how the tensors are to be read.

    How activations are to be rounded (`activation_scheme`) is not read: they are computed with as they are.
    """

    fmt: Literal["e4m3", "float8_e4m3fn"] = "e4m3"
    weight_block_size: Annotated[tuple[Size, ...], Field(min_length=2, max_length=2)] | None = None
    kv_cache_scheme: None = None


def fp8_weights(stored: StoredTensors, config: Fp8Config) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together.

    What multiplies is called weight_scale_inv (of tiles) or weight_scale; input_scale, if there, rounds activations.
    """
    tiles = () if config.weight_block_size is None else (config.weight_block_size,)
    found = {}
    for stem in stored.stems(".weight"):
        if stored.dtype(f"{stem}.weight") == FLOAT8:
            scale = f"{stem}.weight_scale_inv"
            if not stored.has(scale):
                scale = f"{stem}.weight_scale"
            found[f"{stem}.weight"] = ScaledWeight(stored, stem, scale, tiles=tiles)
    return found
