"""Folders written by AutoRound: the tensors of GPTQ or of AWQ, by what they are called there.

Source: auto_round.export.export_to_autoround and auto_round.inference.backend (0.16).
"""

from typing import Annotated, Literal

from pydantic import Field

from mindspore_paged.formats.hf_files import HfModel
from mindspore_paged.weights.quantized.awq import AwqConfig, awq_weights
from mindspore_paged.weights.quantized.gptq import GptqConfig, gptq_weights
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight
from mindspore_paged.weights.quantized.stored_tensors import StoredTensors


class AutoRoundConfig(HfModel):
    """What says how the tensors are to be read; modules that differ (`extra_config`) show it by their tensors.

    packing_format: auto_round and auto_round:gptqmodel have zero points as they are, the other two of GPTQ less one.
    """

    bits: Literal[4, 8]
    group_size: Annotated[int, Field(strict=True, ge=-1, le=2**24)] = -1
    data_type: Literal["int"] = "int"
    packing_format: Literal[
        "auto_round",
        "auto_round:gptqmodel",
        "auto_round:gptq",
        "auto_round:auto_gptq",
        "auto_round:awq",
        "auto_round:auto_awq",
    ]
    rotation_config: None = None
    spinquant_config: None = None


def auto_round_weights(stored: StoredTensors, config: AutoRoundConfig) -> dict[str, GroupedWeight]:
    """The quantized weights by Hugging Face's name; raises CheckpointError for tensors that do not go together."""
    if config.packing_format.endswith("awq"):
        return awq_weights(stored, AwqConfig(bits=4, group_size=config.group_size))
    version = "gptq" if config.packing_format in ("auto_round:gptq", "auto_round:auto_gptq") else "gptq_v2"
    return gptq_weights(stored, GptqConfig(bits=config.bits, group_size=config.group_size, checkpoint_format=version))
