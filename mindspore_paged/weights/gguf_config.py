"""The ModelConfig that the metadata of a GGUF file describes."""

import math

import numpy as np

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import GgufFile, eos_token_ids
from mindspore_paged.model_config import ModelConfig, RopeScaling

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"


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
    rope_theta = _shortest(file.optional("llama.rope.freq_base", float) or 10000.0)
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
            rms_norm_eps=_shortest(file.require("llama.attention.layer_norm_rms_epsilon", float)),
            rope_theta=rope_theta,
            rope_scaling=_rope_scaling(file, head_dim, rope_theta),
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


def _rope_scaling(file: GgufFile, head_dim: int, rope_theta: float) -> RopeScaling:
    kind = file.optional("llama.rope.scaling.type", str) or "linear"
    if kind not in ("none", "linear"):
        raise CheckpointError(f"{file.path}: llama.rope.scaling.type is {kind!r}; allowed: 'none', 'linear'")
    # scale_linear is the older spelling of the same number; 0 and absent both mean no scaling.
    factor = file.optional("llama.rope.scaling.factor", float) or file.optional("llama.rope.scale_linear", float)
    scaled = kind == "linear" and factor and factor != 1.0
    if ROPE_FACTORS in file.tensors:
        if scaled:
            raise CheckpointError(f"{file.path}: has both {ROPE_FACTORS} and a linear factor {factor}; allowed: one")
        return _llama3_scaling(file, head_dim, rope_theta)
    return RopeScaling("linear", _shortest(factor)) if scaled else RopeScaling()


def _llama3_scaling(file: GgufFile, head_dim: int, rope_theta: float) -> RopeScaling:
    """The llama3 scaling that produced the stored divisors of the frequencies.

    A GGUF holds the divisors, one for each pair of dimensions, but not the parameters. All Llama 3.x models share
    all parameters but `factor`, which is what their lowest frequencies are divided by, so the divisors are recomputed
    from the largest and compared.
    """
    stored = np.asarray(file.tensors[ROPE_FACTORS].data, dtype=np.float64)
    if np.array_equal(stored, np.ones(head_dim // 2)):
        return RopeScaling()
    scaling = RopeScaling("llama3", _shortest(max(stored.max(initial=1.0), 1.0)))
    computed = llama3_divisors(scaling, head_dim, rope_theta)
    if stored.shape != computed.shape or not np.allclose(stored, computed, rtol=1e-4):
        raise CheckpointError(
            f"{file.path}: {ROPE_FACTORS} holds other divisors than Llama 3's "
            f"(low_freq_factor 1, high_freq_factor 4, original context 8192); no other kind is supported"
        )
    return scaling


def llama3_divisors(scaling: RopeScaling, head_dim: int, rope_theta: float) -> np.ndarray:
    """What llama3 scaling divides each rotary frequency by: float64 [head_dim // 2].

    Wavelengths below original/high_freq_factor keep their frequency, those above original/low_freq_factor are
    divided by `factor`, and those between are blended. Source: the reference code of Llama 3.1.
    """
    frequencies = rope_theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return 1.0 / (kept + (1.0 - kept) / scaling.factor)


def _shortest(value: float) -> float:
    """The decimal that was written as float32 into the file: 1e-05, not its neighbour 9.99999974e-06."""
    return float(str(np.float32(value)))
