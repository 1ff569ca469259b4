"""The ModelConfig that the metadata of a GGUF file describes."""

from typing import Annotated

from pydantic import Field

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import EMBEDDING, TOKENS, GgufFile
from mindspore_paged.formats.gguf_metadata import GgufSection
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.rope_config import gguf_rope, shortest_float
from mindspore_paged.weights.tensor_names import biased_projections, from_gguf
from mindspore_paged.wording import shortened

ARCHITECTURE = "llama"
_MODEL = "model"

_Size = Annotated[int, Field(ge=1, le=2**24)]
_Length = Annotated[int, Field(ge=1, lt=2**31)]
_HeadDim = Annotated[int, Field(ge=0, le=2**16)]
_Epsilon = Annotated[float, Field(gt=0, lt=1)]


class _Kind(GgufSection):
    architecture: str = Field(alias="general.architecture")
    type: str = Field(_MODEL, alias="general.type")
    experts: int = Field(0, alias="llama.expert_count")


class _Shape(GgufSection):
    """Source of the keys and their defaults: the GGUF specification and llama.cpp's loader."""

    heads: _Size = Field(alias="llama.attention.head_count")
    kv_heads: _Size | list[_Size] | None = Field(None, alias="llama.attention.head_count_kv")
    hidden_size: _Size = Field(alias="llama.embedding_length")
    intermediate_size: _Size = Field(alias="llama.feed_forward_length")
    layers: _Size = Field(alias="llama.block_count")
    context_length: _Length = Field(alias="llama.context_length")
    epsilon: _Epsilon = Field(alias="llama.attention.layer_norm_rms_epsilon")
    key_length: _HeadDim = Field(0, alias="llama.attention.key_length")
    value_length: _HeadDim | None = Field(None, alias="llama.attention.value_length")
    rotary_length: _HeadDim | None = Field(None, alias="llama.rope.dimension_count")

    @property
    def head_dim(self) -> int:
        return self.key_length or self.hidden_size // self.heads


def gguf_model_config(file: GgufFile) -> ModelConfig:
    """The model that `file` describes; raises CheckpointError for anything that is not a plain LLaMA."""
    _check_kind(file)
    vocab_size = _vocab_size(file)
    shape = file.metadata.section(_Shape)
    _check_layers(file, shape)
    _check_head_dim(file, shape)
    rope_theta, rope_scaling = gguf_rope(file, shape.head_dim)
    try:
        return ModelConfig(
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
            biases=biased_projections(map(from_gguf, file.tensors)),
            bos_token_id=file.special_token_ids.get("bos"),
            eos_token_ids=file.eos_token_ids,
        )
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def _check_kind(file: GgufFile):
    kind = file.metadata.section(_Kind)
    if kind.type != _MODEL:  # a LoRA adapter, or what sees the pictures of a model
        raise CheckpointError(f"{file.path}: general.type is {shortened(kind.type)}; allowed: {_MODEL!r}")
    if kind.architecture != ARCHITECTURE:
        raise CheckpointError(f"{file.path}: architecture is {shortened(kind.architecture)}; allowed: {ARCHITECTURE!r}")
    if kind.experts:  # Mixtral files call their architecture "llama" too.
        raise CheckpointError(
            f"{file.path}: llama.expert_count is {kind.experts}; mixtures of experts are not supported"
        )


def _check_layers(file: GgufFile, shape: _Shape):
    # Before anything is made for each of them.
    if shape.layers > len(file.tensors):
        raise CheckpointError(
            f"{file.path}: llama.block_count is {shape.layers}, but there are only {len(file.tensors)} tensors"
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
            f"{file.path}: llama.attention.head_count_kv differs between layers: {shortened(shape.kv_heads)}"
        )
    return per_layer.pop()


def _check_head_dim(file: GgufFile, shape: _Shape):
    for name in ("value_length", "rotary_length"):
        value = getattr(shape, name)
        if value is not None and value != shape.head_dim:
            key = _Shape.model_fields[name].alias
            raise CheckpointError(f"{file.path}: {key} is {value}; only head_dim, {shape.head_dim}, is supported")
