"""What a model's files say of its rotary embedding: the base of its frequencies, and how these are scaled."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.model_config import RopeScaling

ROPE_FACTORS = "rope_freqs.weight"
GGUF_ROPE_TENSORS = (ROPE_FACTORS,)
"""Tensors of a GGUF file that are no weights: `gguf_rope` reads them."""


def hf_rope(path: Path, config: dict[str, Any]) -> tuple[float, RopeScaling]:
    """rope_theta and the scaling that a config.json says; raises CheckpointError for a kind that is not supported.

    path: of the file, for messages. config: the JSON object.
    """
    rope = _rope_parameters(path, config)
    try:
        return _number(path, {**config, **rope}, "rope_theta", 10000.0), _hf_rope_scaling(path, rope)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def gguf_rope(file: GgufFile, head_dim: int) -> tuple[float, RopeScaling]:
    """The base and the scaling that a GGUF file says; raises CheckpointError for a kind that is not supported."""
    rope_theta = shortest_float(file.optional("llama.rope.freq_base", float) or 10000.0)
    try:
        return rope_theta, _gguf_rope_scaling(file, head_dim, rope_theta)
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def _rope_parameters(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    # transformers 5 writes one dict, rope_parameters, theta included; before, it was rope_scaling beside rope_theta.
    value = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: rope scaling is {value!r}; it must be a JSON object")
    return value


def _hf_rope_scaling(path: Path, rope: dict[str, Any]) -> RopeScaling:
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


def _gguf_rope_scaling(file: GgufFile, head_dim: int, rope_theta: float) -> RopeScaling:
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
    return RopeScaling("linear", shortest_float(factor)) if scaled else RopeScaling()


def _llama3_scaling(file: GgufFile, head_dim: int, rope_theta: float) -> RopeScaling:
    """The llama3 scaling that produced the stored divisors of the frequencies.

    A GGUF holds the divisors, one for each pair of dimensions, but not the parameters. All Llama 3.x models share
    all parameters but `factor`, which is what their lowest frequencies are divided by, so the divisors are recomputed
    from the largest and compared.
    """
    stored = np.asarray(file.tensors[ROPE_FACTORS].data, dtype=np.float64)
    if np.array_equal(stored, np.ones(head_dim // 2)):
        return RopeScaling()
    scaling = RopeScaling("llama3", shortest_float(max(stored.max(initial=1.0), 1.0)))
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


def shortest_float(value: float) -> float:
    """The decimal that was written as float32 into the file: 1e-05, not its neighbour 9.99999974e-06."""
    return float(str(np.float32(value)))


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
