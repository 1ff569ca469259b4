"""Which method a Hugging Face folder is quantized by, as its files say: a row a method."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import HfModel, checked, read_json_object, read_json_object_if_there
from mindspore_paged.weights.quantized.auto_round import AutoRoundConfig, auto_round_weights
from mindspore_paged.weights.quantized.awq import AwqConfig, awq_weights
from mindspore_paged.weights.quantized.compressed_tensors import CompressedTensorsConfig, compressed_tensors_weights
from mindspore_paged.weights.quantized.fp8 import Fp8Config, fp8_weights
from mindspore_paged.weights.quantized.golden_stick import GoldenStickConfig, golden_stick_weights
from mindspore_paged.weights.quantized.gptq import GptqConfig, gptq_weights
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight
from mindspore_paged.weights.quantized.stored_tensors import StoredTensors
from mindspore_paged.wording import shortened

WeightsOf = Callable[[StoredTensors], dict[str, GroupedWeight]]


@dataclass(frozen=True)
class QuantizationMethod:
    """How one program writes quantized weights: what config.json says of them, and where they are found."""

    config: type[HfModel]
    weights: Callable[[StoredTensors, Any], dict[str, GroupedWeight]]


METHODS = {
    "gptq": QuantizationMethod(GptqConfig, gptq_weights),
    "awq": QuantizationMethod(AwqConfig, awq_weights),
    "auto-round": QuantizationMethod(AutoRoundConfig, auto_round_weights),
    "compressed-tensors": QuantizationMethod(CompressedTensorsConfig, compressed_tensors_weights),
    "fp8": QuantizationMethod(Fp8Config, fp8_weights),
    "golden-stick": QuantizationMethod(GoldenStickConfig, golden_stick_weights),
}
"""By `quant_method` of config.json."""
_KEYS = ("quantization_config", "compression_config")
_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_description.json": "golden-stick",
    "quant_model_description.json": "ModelSlim",
}
"""Files beside config.json in which other programs say it, and the method that is meant where they name none."""

_Config = TypeVar("_Config", bound=HfModel)


class _InConfigJson(HfModel, Generic[_Config]):
    quantization_config: _Config


def quantization_of(folder: Path) -> WeightsOf | None:
    """What finds the quantized weights of `folder`; None where its files say of no quantization.

    Raises CheckpointError for a method that is not read, and for one of whose settings some are not.
    """
    path = folder / "config.json"
    data = read_json_object_if_there(path)
    said = next((data[key] for key in _KEYS if data.get(key) is not None), None)
    if said is not None:
        method = _method(path, said, None)
        config = checked(path, _InConfigJson[method.config], {"quantization_config": said}).quantization_config
        return partial(_weights, method, config)
    for name, meant in _FILES.items():
        path = folder / name
        if path.exists():
            said = read_json_object(path)
            method = _method(path, said, "awq" if "w_bit" in said else meant)
            return partial(_weights, method, checked(path, method.config, said))
    return None


def _weights(method: QuantizationMethod, config: HfModel, stored: StoredTensors) -> dict[str, GroupedWeight]:
    return method.weights(stored, config)


def _method(path: Path, said: Any, meant: str | None) -> QuantizationMethod:
    name = said.get("quant_method", meant) if isinstance(said, dict) else said
    method = METHODS.get(name) if isinstance(said, dict) and isinstance(name, str) else None
    if method is None:
        raise CheckpointError(
            f"{path}: the weights are quantized by {shortened(name)}, which is not read; read are "
            f"{', '.join(METHODS)}; take one of these, the model's float weights, or a GGUF file of it"
        )
    return method
