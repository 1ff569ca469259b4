"""The ModelConfig that the config.json of a Hugging Face folder describes."""

from pathlib import Path
from typing import Any

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.hf_files import generation_eos_token_ids, read_json_object
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.rope_config import hf_rope

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
    max_positions = _size(path, config, "max_position_embeddings", 2048)
    rope_theta, rope_scaling = hf_rope(path, config, max_positions)
    try:
        return ModelConfig(
            vocab_size=_size(path, config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_size(path, config, "intermediate_size"),
            num_hidden_layers=_size(path, config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=_size(path, config, "num_key_value_heads", heads),
            head_dim=_size(path, config, "head_dim", hidden_size // heads),
            max_position_embeddings=max_positions,
            rms_norm_eps=_number(path, config, "rms_norm_eps", 1e-6),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
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
