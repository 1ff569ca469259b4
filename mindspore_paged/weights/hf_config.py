"""The ModelConfig that the config.json of a Hugging Face folder describes."""

from pathlib import Path
from typing import Any

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.hf_files import generation_eos_token_ids, read_json_object
from mindspore_paged.model_config import ModelConfig, RopeScaling

MODEL_TYPE = "llama"
# Settings that change what the model computes, and the values that this model implements.
_REQUIRED_SETTINGS = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
}


def hf_model_config(folder: Path) -> ModelConfig:
    """The model that `folder`/config.json describes; raises CheckpointError for anything that is not a plain LLaMA.

    Absent keys take the defaults of transformers' LlamaConfig.
    """
    path = folder / "config.json"
    config = read_json_object(path)
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{path}: model_type is {config.get('model_type')!r}; allowed: {MODEL_TYPE!r}")
    for key, allowed in _REQUIRED_SETTINGS.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; allowed: {allowed[0]!r}")
    heads, hidden_size = _size(path, config, "num_attention_heads"), _size(path, config, "hidden_size")
    rope = _rope_parameters(path, config)
    try:
        return ModelConfig(
            vocab_size=_size(path, config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_size(path, config, "intermediate_size"),
            num_hidden_layers=_size(path, config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=_size(path, config, "num_key_value_heads", heads),
            head_dim=_size(path, config, "head_dim", hidden_size // heads),
            max_position_embeddings=_size(path, config, "max_position_embeddings", 2048),
            rms_norm_eps=_number(path, config, "rms_norm_eps", 1e-6),
            rope_theta=_number(path, {**config, **rope}, "rope_theta", 10000.0),
            rope_scaling=_rope_scaling(path, rope),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            bos_token_id=config.get("bos_token_id"),
            eos_token_ids=generation_eos_token_ids(folder),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _size(path: Path, config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path}: {key} is {value!r}; it must be a whole number of at least 1")
    return value


def _number(path: Path, config: dict[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}; it must be a number")
    return float(value)


def _rope_parameters(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    # transformers 5 writes one dict, rope_parameters, theta included; before, it was rope_scaling beside rope_theta.
    value = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: rope scaling is {value!r}; it must be a JSON object")
    return value


def _rope_scaling(path: Path, rope: dict[str, Any]) -> RopeScaling:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return RopeScaling()
    if kind == "linear":
        return RopeScaling("linear", _number(path, rope, "factor"))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            factor=_number(path, rope, "factor"),
            low_freq_factor=_number(path, rope, "low_freq_factor"),
            high_freq_factor=_number(path, rope, "high_freq_factor"),
            original_max_position_embeddings=_size(path, rope, "original_max_position_embeddings"),
        )
    # "dynamic" is the NTK base of another length at every length: no one base is equal to it.
    raise CheckpointError(f"{path}: rope type is {kind!r}; allowed: 'default', 'linear', 'llama3'")
