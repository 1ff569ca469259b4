"""What a model's files say of its rotary embedding: the base of its frequencies, and how these are scaled."""

import math
import reprlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from gguf import GGMLQuantizationType
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.rope_scaling import RopeScaling

DIVISORS, SHORT_FACTORS, LONG_FACTORS = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
GGUF_ROPE_TENSORS = (DIVISORS, SHORT_FACTORS, LONG_FACTORS)
"""Tensors of a GGUF file that are no weights: `gguf_rope` reads them."""

HF_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
GGUF_TYPES = ("none", "linear", "yarn", "longrope")
DEFAULT_THETA = 10000.0
_MOST_PAIRS = 1 << 16


def _whole(value: Any) -> Any:
    """A whole float is a whole number: JSON knows no other than one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Number = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_NumberOrZero = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Count = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=1, lt=2**31)]
_OfPairs = Annotated[tuple[_Number, ...], Field(max_length=_MOST_PAIRS)]


class _HfRope(BaseModel):
    """Keys of config.json and of its rope_scaling; null is absent, others are not looked at."""

    model_config = ConfigDict(extra="ignore")

    rope_type: Annotated[str, Field(strict=True)] | None = None
    type: Annotated[str, Field(strict=True)] | None = None
    rope_theta: _Number | None = None
    factor: _Number | None = None
    low_freq_factor: _Number | None = None
    high_freq_factor: _Number | None = None
    original_max_position_embeddings: _Count | None = None
    beta_fast: _NumberOrZero | None = None
    beta_slow: _NumberOrZero | None = None
    truncate: Annotated[bool, Field(strict=True)] | None = None
    attention_factor: _Number | None = None
    mscale: _NumberOrZero | None = None
    mscale_all_dim: _NumberOrZero | None = None
    short_factor: _OfPairs | None = None
    long_factor: _OfPairs | None = None


def hf_rope(path: Path, config: dict[str, Any], max_position_embeddings: int) -> tuple[float, RopeScaling]:
    """rope_theta and the scaling that a config.json says, read as transformers does.

    path: of the file, for messages. config: the JSON object. Raises CheckpointError for another kind of scaling, and
    for values that cannot be.
    """
    # transformers 5 writes one dict, rope_parameters, theta included; before, it was rope_scaling beside rope_theta.
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(written, dict):
        raise CheckpointError(f"{path}: rope scaling is {reprlib.repr(written)}; it must be a JSON object")
    beside = {key: config[key] for key in ("rope_theta",) if config.get(key) is not None}
    rope = _validated(_HfRope, beside | written, path, "rope_scaling.")
    original = _validated(
        _HfRope, {"original_max_position_embeddings": config.get("original_max_position_embeddings")}, path, ""
    ).original_max_position_embeddings
    try:
        scaling = _hf_scaling(path, rope, original or rope.original_max_position_embeddings, max_position_embeddings)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return rope.rope_theta or DEFAULT_THETA, scaling


def _hf_scaling(path: Path, rope: _HfRope, original: int | None, max_position_embeddings: int) -> RopeScaling:
    kind = rope.rope_type or rope.type or "default"

    def needed(*names: str) -> dict[str, Any]:
        values = {name: getattr(rope, name) for name in names}
        for name, value in values.items():
            if value is None:
                raise CheckpointError(f"{path}: rope_scaling.{name} is None; rope type {kind} needs it")
        return values

    match kind:
        case "default":
            return RopeScaling()
        case "linear":
            return RopeScaling(kind, **needed("factor"))
        case "dynamic":
            return RopeScaling(kind, **needed("factor"), original_max_position_embeddings=max_position_embeddings)
        case "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            return RopeScaling(kind, **needed(*names))
        case "yarn":
            return RopeScaling(
                kind,
                **needed("factor"),
                original_max_position_embeddings=original,
                beta_fast=rope.beta_fast or 32.0,
                beta_slow=rope.beta_slow or 1.0,
                truncate=rope.truncate is not False,
                attention_factor=rope.attention_factor or _yarn_attention(rope),
            )
        case "longrope":
            factor = max_position_embeddings / original if original else needed("factor")["factor"]
            return RopeScaling(
                kind,
                **needed("short_factor", "long_factor"),
                factor=max(factor, 1.0),
                original_max_position_embeddings=original,
                attention_factor=rope.attention_factor,
            )
    allowed = ", ".join(map(repr, HF_TYPES))
    raise CheckpointError(f"{path}: rope type is {reprlib.repr(kind)}; allowed: {allowed}")


def _yarn_attention(rope: _HfRope) -> float | None:
    """Where both mscales are given, their ratio; else None, which is the default."""
    if not (rope.mscale and rope.mscale_all_dim):
        return None
    growth = 0.1 * math.log(max(rope.factor, 1.0))
    return (1.0 + rope.mscale * growth) / (1.0 + rope.mscale_all_dim * growth)


class _GgufRope(BaseModel):
    """Keys of a GGUF file's metadata behind `llama.rope.`; a number of 0 is absent, as in llama.cpp."""

    scaling_type: Annotated[str, Field(strict=True)] | None = None
    freq_base: _NumberOrZero | None = None
    scale_linear: _NumberOrZero | None = None
    scaling_factor: _NumberOrZero | None = None
    scaling_attn_factor: _NumberOrZero | None = None
    scaling_original_context_length: Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, lt=2**31)] = 0
    scaling_yarn_beta_fast: _NumberOrZero | None = None
    scaling_yarn_beta_slow: _NumberOrZero | None = None
    scaling_yarn_attn_factor: _NumberOrZero | None = None


def gguf_rope(file: GgufFile, head_dim: int) -> tuple[float, RopeScaling]:
    """The base and the scaling that a GGUF file says, read as llama.cpp does; of yarn's own keys see below.

    Raises CheckpointError for another kind of scaling, and for values that cannot be.
    """
    keys = {name: f"llama.rope.{name.replace('scaling_', 'scaling.')}" for name in _GgufRope.model_fields}
    written = {name: file.metadata[key] for name, key in keys.items() if file.metadata.get(key) is not None}
    rope = _validated(_GgufRope, written, file.path, "", keys)
    kind = rope.scaling_type or "linear"
    if kind not in GGUF_TYPES:
        allowed = ", ".join(map(repr, GGUF_TYPES))
        raise CheckpointError(f"{file.path}: llama.rope.scaling.type is {reprlib.repr(kind)}; allowed: {allowed}")
    try:
        scaling = _gguf_scaling(file, kind, rope, head_dim)
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return shortest_float(rope.freq_base or DEFAULT_THETA), scaling


def _gguf_scaling(file: GgufFile, kind: str, rope: _GgufRope, head_dim: int) -> RopeScaling:
    # scale_linear is the older spelling of the same number.
    factor = shortest_float(rope.scaling_factor or rope.scale_linear or 1.0)
    attention = shortest_float(rope.scaling_attn_factor or 1.0)
    original = rope.scaling_original_context_length or None
    if kind == "longrope":
        # llama.cpp divides positions by `factor` too. It is no measure of the attention factor there.
        short, long = (_factors_of_pairs(file, name, head_dim, factor) for name in (SHORT_FACTORS, LONG_FACTORS))
        return RopeScaling(
            kind,
            original_max_position_embeddings=original,
            attention_factor=attention,
            short_factor=short,
            long_factor=long,
        )
    divisors = _factors_of_pairs(file, DIVISORS, head_dim) if DIVISORS in file.tensors else ()
    divisors = divisors if any(number != 1.0 for number in divisors) else ()
    if kind == "yarn" and factor != 1.0:
        # llama.cpp reads yarn's own keys of other architectures only; converters put there what transformers uses.
        derived = rope.scaling_yarn_attn_factor or 1.0 + 0.1 * math.log(factor)
        return RopeScaling(
            kind,
            factor=factor,
            original_max_position_embeddings=original,
            beta_fast=shortest_float(rope.scaling_yarn_beta_fast or 32.0),
            beta_slow=shortest_float(rope.scaling_yarn_beta_slow or 1.0),
            attention_factor=derived * attention,
            divisors=divisors,
        )
    common = {"divisors": divisors, "attention_factor": attention if attention != 1.0 else None}
    return RopeScaling("linear", factor, **common) if kind == "linear" and factor != 1.0 else RopeScaling(**common)


def _factors_of_pairs(file: GgufFile, name: str, head_dim: int, times: float = 1.0) -> tuple[float, ...]:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{file.path}: tensor {name} is missing, which llama.rope.scaling.type longrope needs")
    if tensor.tensor_type != GGMLQuantizationType.F32 or tensor.shape != (head_dim // 2,):
        raise CheckpointError(
            f"{file.path}: tensor {name} is {tensor.tensor_type.name} of shape {list(tensor.shape)}; it must be F32 "
            f"of shape [{head_dim // 2}], a number for each pair of a head"
        )
    numbers = np.asarray(tensor.data, np.float64)
    wrong = ~(np.isfinite(numbers) & (numbers > 0))
    if wrong.any():
        raise CheckpointError(f"{file.path}: tensor {name} holds {numbers[wrong][0]}; it must hold positive numbers")
    return tuple((numbers * times).tolist())


def shortest_float(value: float) -> float:
    """The decimal that was written as float32 into the file: 1e-05, not its neighbour 9.99999974e-06."""
    return float(str(np.float32(value)))


def _validated(kind: type[BaseModel], values: dict, path: Path, prefix: str, keys: dict[str, str] | None = None) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name, *places = problem["loc"]
        name = (keys or {}).get(name, f"{'' if name == 'rope_theta' else prefix}{name}")
        where = name + "".join(f"[{place}]" for place in places if isinstance(place, int))
        needed = problem["msg"].removeprefix("Input should be ")
        raise CheckpointError(f"{path}: {where} is {reprlib.repr(problem['input'])}; it must be {needed}") from None
