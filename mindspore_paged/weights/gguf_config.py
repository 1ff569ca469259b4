"""The ModelConfig that the metadata of a GGUF file describes."""

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import GgufFile, eos_token_ids
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.rope_config import gguf_rope, shortest_float

ARCHITECTURE = "llama"


def gguf_model_config(file: GgufFile) -> ModelConfig:
    """The model that `file` describes; raises CheckpointError for anything that is not a plain LLaMA.

    Source of the keys and their defaults: the GGUF specification and llama.cpp's loader.
    """
    architecture = file.require("general.architecture", str)
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"{file.path}: architecture is {architecture!r}; allowed: {ARCHITECTURE!r}")
    _refuse_experts(file)
    heads = file.require("llama.attention.head_count", int)
    hidden_size = file.require("llama.embedding_length", int)
    head_dim = _head_dim(file, hidden_size, heads)
    rope_theta, rope_scaling = gguf_rope(file, head_dim)
    try:
        return ModelConfig(
            vocab_size=_vocab_size(file),
            hidden_size=hidden_size,
            intermediate_size=file.require("llama.feed_forward_length", int),
            num_hidden_layers=file.require("llama.block_count", int),
            num_attention_heads=heads,
            num_key_value_heads=_kv_heads(file, heads),
            head_dim=head_dim,
            max_position_embeddings=file.require("llama.context_length", int),
            rms_norm_eps=shortest_float(file.require("llama.attention.layer_norm_rms_epsilon", float)),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings="output.weight" not in file.tensors,
            bos_token_id=file.optional("tokenizer.ggml.bos_token_id", int),
            eos_token_ids=eos_token_ids(file),
        )
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def _refuse_experts(file: GgufFile):
    # Mixtral files call their architecture "llama" too.
    experts = file.optional("llama.expert_count", int)
    if experts:
        raise CheckpointError(f"{file.path}: llama.expert_count is {experts}; mixtures of experts are not supported")


def _vocab_size(file: GgufFile) -> int:
    # llama.vocab_size is absent from many files; the embedding has one row a token in all of them.
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{file.path}: tensor token_embd.weight is missing")
    return int(embedding.shape[-1])


def _kv_heads(file: GgufFile, heads: int) -> int:
    value = file.optional("llama.attention.head_count_kv", (int, list))
    if value is None:
        return heads
    per_layer = set(value) if isinstance(value, list) else {value}
    if len(per_layer) != 1:
        raise CheckpointError(f"{file.path}: llama.attention.head_count_kv differs between layers: {value}")
    return per_layer.pop()


def _head_dim(file: GgufFile, hidden_size: int, heads: int) -> int:
    head_dim = file.optional("llama.attention.key_length", int) or hidden_size // max(heads, 1)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        value = file.optional(key, int)
        if value is not None and value != head_dim:
            raise CheckpointError(f"{file.path}: {key} is {value}; only head_dim, {head_dim}, is supported")
    return head_dim
