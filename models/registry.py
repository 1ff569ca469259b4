"""The families of decoders that run: to add one, write its file and a row here."""

from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models import gemma3, granite, llama, mistral, phi3, qwen2, qwen3, smollm3
from mindspore_paged.models.spec import ModelSpec

SPECS: dict[str, ModelSpec] = {
    family.SPEC.name: family.SPEC for family in (llama, mistral, qwen2, qwen3, phi3, granite, smollm3, gemma3)
}
"""By the name that ModelConfig.architecture has."""

HF_TYPES: dict[str, ModelSpec] = {kind: spec for spec in SPECS.values() for kind in spec.hf_types}
"""By `model_type` of config.json."""

GGUF_TYPES: dict[str, ModelSpec] = {kind: spec for spec in SPECS.values() for kind in spec.gguf_types}
"""By `general.architecture` of a GGUF file."""

MODEL_CONFIGS: dict[str, ModelConfig] = {**llama.MODELS, **mistral.MODELS, **qwen2.MODELS, **qwen3.MODELS}
"""Known models by the name that `model.name` takes in YAML."""


def model_config_by_name(name: str) -> ModelConfig:
    """The configuration called `name`; raises ConfigError that lists the known names."""
    if name not in MODEL_CONFIGS:
        raise ConfigError(f"model.name is {name!r}; known models: {', '.join(MODEL_CONFIGS)}")
    return MODEL_CONFIGS[name]


def spec_of(config: ModelConfig) -> ModelSpec:
    """The family of a model; raises ConfigError for one that is not known, or that has not the norms it should."""
    if config.architecture not in SPECS:
        raise ConfigError(f"model: architecture is {config.architecture!r}; allowed: {', '.join(SPECS)}")
    spec = SPECS[config.architecture]
    has_output_norms = any(weight.role.endswith("output_norm") for weight in spec.layer)
    if config.output_norms != has_output_norms:
        raise ConfigError(
            f"model: output_norms is {config.output_norms}; for architecture {spec.name} it must be {has_output_norms}"
        )
    return spec


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a model, by Hugging Face's name; raises ConfigError as `spec_of` does."""
    return spec_of(config).shapes(config)


def num_parameters(config: ModelConfig) -> int:
    """Weights of the whole model, tied ones counted once; raises ConfigError as `spec_of` does."""
    spec = spec_of(config)
    of_layer = sum(_size(weight, config) for _, weight in spec.weights_of_layer(config, 0))
    of_model = sum(_size(weight, config) for weight in spec.weights if weight.there(config))
    return config.num_hidden_layers * of_layer + of_model


def _size(weight, config: ModelConfig) -> int:
    size = 1
    for length in weight.sizes(config):
        size *= length
    return size
