"""The ModelConfig that the metadata of a GGUF file describes."""

from typing import Annotated

from pydantic import Field

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import EMBEDDING, TOKENS, GgufFile
from mindspore_paged.formats.gguf_metadata import GgufSection
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import GGUF_TYPES
from mindspore_paged.models.spec import ModelSpec
from mindspore_paged.weights.rope_config import gguf_rope, shortest_float
from mindspore_paged.wording import shortened

_MODEL = "model"

_Size = Annotated[int, Field(ge=1, le=2**24)]
_Length = Annotated[int, Field(ge=1, lt=2**31)]
_HeadDim = Annotated[int, Field(ge=0, le=2**16)]
_Epsilon = Annotated[float, Field(gt=0, lt=1)]


class _Kind(GgufSection):
    type: str = Field(_MODEL, alias="general.type")
    experts: int = Field(0, alias="{arch}.expert_count")


class _Shape(GgufSection):
    """Source of the keys and their defaults: the GGUF specification and llama.cpp's loader."""

    heads: _Size = Field(alias="{arch}.attention.head_count")
    kv_heads: _Size | list[_Size] | None = Field(None, alias="{arch}.attention.head_count_kv")
    hidden_size: _Size = Field(alias="{arch}.embedding_length")
    intermediate_size: _Size = Field(alias="{arch}.feed_forward_length")
    layers: _Size = Field(alias="{arch}.block_count")
    context_length: _Length = Field(alias="{arch}.context_length")
    epsilon: _Epsilon = Field(alias="{arch}.attention.layer_norm_rms_epsilon")
    key_length: _HeadDim = Field(0, alias="{arch}.attention.key_length")
    value_length: _HeadDim | None = Field(None, alias="{arch}.attention.value_length")
    rotary_length: _HeadDim | None = Field(None, alias="{arch}.rope.dimension_count")

    @property
    def head_dim(self) -> int:
        return self.key_length or self.hidden_size // self.heads


def gguf_model_config(file: GgufFile) -> ModelConfig:
    """The model that `file` describes; raises CheckpointError for a family that is not known."""
    spec = spec_of_file(file)
    vocab_size = _vocab_size(file)
    shape = file.metadata.section(_Shape, file.architecture)
    options = file.metadata.section(spec.gguf_options, file.architecture)
    _check_layers(file, shape)
    rotary_dim = _rotary_dim(file, shape, spec.gguf_options.rotates_part)
    rope_theta, rope_scaling = gguf_rope(file, rotary_dim or shape.head_dim)
    try:
        return ModelConfig(
            architecture=spec.name,
            vocab_size=vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=_kv_heads(file, shape),
            head_dim=shape.head_dim,
            max_position_embeddings=shape.context_length,
            rms_norm_eps=shortest_float(shape.epsilon),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings="output.weight" not in file.tensors,
            biases=spec.biased_projections(map(spec.from_gguf, file.tensors)),
            bos_token_id=file.special_token_ids.get("bos"),
            eos_token_ids=file.eos_token_ids,
            rotary_dim=rotary_dim,
            **options.options(shape.layers),
        )
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def spec_of_file(file: GgufFile) -> ModelSpec:
    """The family that a file is of; raises CheckpointError for one that is not known, and for what is no model."""
    kind = file.metadata.section(_Kind, file.architecture)
    if kind.type != _MODEL:  # a LoRA adapter, or what sees the pictures of a model
        raise CheckpointError(f"{file.path}: general.type is {shortened(kind.type)}; allowed: {_MODEL!r}")
    if file.architecture not in GGUF_TYPES:
        allowed = ", ".join(map(repr, GGUF_TYPES))
        raise CheckpointError(f"{file.path}: architecture is {shortened(file.architecture)}; allowed: {allowed}")
    if kind.experts:  # Mixtral files call their architecture "llama" too.
        raise CheckpointError(
            f"{file.path}: {file.architecture}.expert_count is {kind.experts}; mixtures of experts are not supported"
        )
    return GGUF_TYPES[file.architecture]


def _check_layers(file: GgufFile, shape: _Shape):
    # Before anything is made for each of them.
    if shape.layers > len(file.tensors):
        raise CheckpointError(
            f"{file.path}: {file.architecture}.block_count is {shape.layers}, "
            f"but there are only {len(file.tensors)} tensors"
        )


def _vocab_size(file: GgufFile) -> int:
    # llama.vocab_size is absent from many files; the embedding has one row a token in all of them.
    embedding, tokens = file.tensors.get(EMBEDDING), file.metadata.length(TOKENS) or 0
    if embedding is None:
        raise CheckpointError(f"{file.path}: tensor {EMBEDDING} is missing")
    if tokens > embedding.shape[0]:
        raise CheckpointError(f"{file.path}: {tokens} tokens, but {EMBEDDING} has only {embedding.shape[0]} rows")
    return embedding.shape[0]


def _kv_heads(file: GgufFile, shape: _Shape) -> int:
    if not isinstance(shape.kv_heads, list):
        return shape.kv_heads or shape.heads
    per_layer = set(shape.kv_heads)
    if len(per_layer) != 1:
        raise CheckpointError(
            f"{file.path}: {file.architecture}.attention.head_count_kv differs between layers: "
            f"{shortened(shape.kv_heads)}"
        )
    return per_layer.pop()


def _rotary_dim(file: GgufFile, shape: _Shape, rotates_part: bool) -> int | None:
    """How many numbers of a head are rotated; None for all of them."""
    for name in ("value_length",) if rotates_part else ("value_length", "rotary_length"):
        value = getattr(shape, name)
        if value is not None and value != shape.head_dim:
            key = _Shape.model_fields[name].alias.replace("{arch}", file.architecture)
            raise CheckpointError(f"{file.path}: {key} is {value}; only head_dim, {shape.head_dim}, is supported")
    return None if shape.rotary_length in (None, shape.head_dim) else shape.rotary_length
