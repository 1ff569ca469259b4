"""The ModelConfig that the config.json of a Hugging Face folder describes."""

from pathlib import Path
from typing import Any

from pydantic import StrictBool

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.hf_files import (
    NO_TOKEN,
    HfModel,
    Length,
    Number,
    Size,
    TokenId,
    checked,
    generation_eos_token_ids,
    read_json_object,
)
from mindspore_paged.model_config import ATTENTION_PROJECTIONS, MLP_PROJECTIONS, ModelConfig
from mindspore_paged.weights.rope_config import hf_rope
from mindspore_paged.wording import shortened

MODEL_TYPE = "llama"
# Settings that change what the model computes, and the values that this model implements.
_REQUIRED_SETTINGS = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1.0,),
}


class _LlamaConfig(HfModel):
    """What of a config.json is read here; absent keys take the defaults of transformers' LlamaConfig."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Length = 2048
    rms_norm_eps: Number = 1e-6
    tie_word_embeddings: StrictBool = False
    attention_bias: StrictBool = False
    mlp_bias: StrictBool = False
    bos_token_id: TokenId = NO_TOKEN


def hf_model_config(folder: Path) -> ModelConfig:
    """The model that `folder`/config.json describes; raises CheckpointError for anything that is not a plain LLaMA."""
    path = folder / "config.json"
    data = read_json_object(path)
    _check_kind(path, data)
    config = checked(path, _LlamaConfig, data)
    rope_theta, rope_scaling = hf_rope(path, data, config.max_position_embeddings)
    try:
        return ModelConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=config.tie_word_embeddings,
            biases=ATTENTION_PROJECTIONS * config.attention_bias + MLP_PROJECTIONS * config.mlp_bias,
            bos_token_id=config.bos_token_id if config.bos_token_id != NO_TOKEN else None,
            eos_token_ids=generation_eos_token_ids(folder),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_kind(path: Path, data: dict[str, Any]) -> None:
    if data.get("model_type") != MODEL_TYPE:
        kind = shortened(data.get("model_type"))
        raise CheckpointError(f"{path}: model_type is {kind}; allowed: {MODEL_TYPE!r}")
    for key, allowed in _REQUIRED_SETTINGS.items():
        value = data.get(key)
        if value is not None and value not in allowed:
            raise CheckpointError(f"{path}: {key} is {shortened(value)}; allowed: {allowed[0]!r}")
    quantization = data.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise CheckpointError(
            f"{path}: the weights are quantized by {shortened(method)} (quantization_config), which is not read; "
            "take the model's float weights, or a GGUF file of it"
        )
