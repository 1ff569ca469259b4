"""The ModelConfig that the config.json of a Hugging Face folder describes."""

from pathlib import Path
from typing import Any

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.hf_files import NO_TOKEN, checked, generation_eos_token_ids, read_json_object
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import HF_TYPES
from mindspore_paged.models.spec import ModelSpec
from mindspore_paged.weights.rope_config import hf_rope, with_one_rope
from mindspore_paged.wording import shortened


def hf_model_config(folder: Path) -> ModelConfig:
    """The model that `folder`/config.json describes; raises CheckpointError for a family that is not known.

    Also for settings that change what is computed, and that its family here does not have.
    """
    path = folder / "config.json"
    data = read_json_object(path)
    spec = _spec_of(path, data)
    data = with_one_rope(path, data, spec.hf_options)
    config = checked(path, spec.hf_options, data)
    rope_theta, rope_scaling = hf_rope(path, data, config)
    try:
        return ModelConfig(
            architecture=spec.name,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=config.size_of_head,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=config.tie_word_embeddings,
            bos_token_id=config.bos_token_id if config.bos_token_id != NO_TOKEN else None,
            eos_token_ids=generation_eos_token_ids(folder),
            **config.options(),
        )
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _spec_of(path: Path, data: dict[str, Any]) -> ModelSpec:
    kind = data.get("model_type")
    spec = HF_TYPES.get(kind) if isinstance(kind, str) else None
    if spec is None:
        allowed = ", ".join(map(repr, HF_TYPES))
        raise CheckpointError(f"{path}: model_type is {shortened(kind)}; allowed: {allowed}")
    for key, values in spec.hf_options.required.items():
        value = data.get(key)
        if value is not None and value not in values:
            raise CheckpointError(f"{path}: {key} is {shortened(value)}; allowed: {values[0]!r}")
    return spec
