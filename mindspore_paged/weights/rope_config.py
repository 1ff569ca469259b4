"""What a model's files say of its rotary embedding: the base of its frequencies, and how these are scaled."""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from gguf import GGMLQuantizationType
from pydantic import Field, ValidationError

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.formats.gguf_metadata import GgufSection
from mindspore_paged.formats.hf_files import HfModel, Length
from mindspore_paged.model_config import FULL, SLIDING
from mindspore_paged.models.options import DEFAULT_THETA, HfOptions
from mindspore_paged.rope_scaling import RopeScaling
from mindspore_paged.wording import shortened

DIVISORS, SHORT_FACTORS, LONG_FACTORS = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
GGUF_ROPE_TENSORS = (DIVISORS, SHORT_FACTORS, LONG_FACTORS)
"""Tensors of a GGUF file that are no weights: `gguf_rope` reads them."""

HF_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
GGUF_TYPES = ("none", "linear", "yarn", "longrope")
_MOST_PAIRS = 1 << 16

_Number = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_NumberOrZero = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
_OfPairs = Annotated[tuple[_Number, ...], Field(max_length=_MOST_PAIRS)]


class _HfRope(HfModel):
    """Keys of config.json and of its rope_scaling."""

    rope_type: Annotated[str, Field(strict=True)] | None = None
    type: Annotated[str, Field(strict=True)] | None = None
    rope_theta: _Number | None = None
    factor: _Number | None = None
    low_freq_factor: _Number | None = None
    high_freq_factor: _Number | None = None
    original_max_position_embeddings: Length | None = None
    beta_fast: _NumberOrZero | None = None
    beta_slow: _NumberOrZero | None = None
    truncate: Annotated[bool, Field(strict=True)] | None = None
    attention_factor: _Number | None = None
    mscale: _NumberOrZero | None = None
    mscale_all_dim: _NumberOrZero | None = None
    short_factor: _OfPairs | None = None
    long_factor: _OfPairs | None = None


def with_one_rope(path: Path, config: dict[str, Any], kind: type[HfOptions]) -> dict[str, Any]:
    """A config.json whose rope_parameters are those of full layers, as they stand where all layers have the same.

    transformers 5 writes an object for each type of layer; what sliding layers rotate by goes to rope_local_base_freq,
    where transformers 4 has it. Raises CheckpointError where a family does not tell layers apart, or for a scaling of
    sliding layers.
    """
    written = config.get("rope_parameters")
    if not isinstance(written, dict) or not ({FULL, SLIDING} & set(written)):
        return config
    full, sliding = written.get(FULL) or written.get(SLIDING), written.get(SLIDING) or written.get(FULL)
    for name, rope in ((FULL, full), (SLIDING, sliding)):
        if not isinstance(rope, dict):
            raise CheckpointError(f"{path}: rope_parameters.{name} is {shortened(rope)}; it must be a JSON object")
    if "rope_local_base_freq" not in kind.model_fields:
        if full != sliding:
            raise CheckpointError(f"{path}: rope_parameters.{SLIDING} is {shortened(sliding)}; allowed: that of {FULL}")
        return config | {"rope_parameters": full}
    if SLIDING not in written or sliding.get("rope_theta") is None:
        return config | {"rope_parameters": full}
    if (sliding.get("rope_type") or "default") != "default":
        raise CheckpointError(
            f"{path}: rope_parameters.{SLIDING}.rope_type is {shortened(sliding['rope_type'])}; allowed: 'default'"
        )
    return config | {"rope_parameters": full, "rope_local_base_freq": sliding["rope_theta"]}


def hf_rope(path: Path, config: dict[str, Any], options: HfOptions) -> tuple[float, RopeScaling]:
    """rope_theta and the scaling that a config.json says, read as transformers does.

    path: of the file, for messages. config: the JSON object; options: what its family reads of it. Raises
    CheckpointError for another kind of scaling, and for values that cannot be.
    """
    max_position_embeddings = options.max_position_embeddings
    # transformers 5 writes one dict, rope_parameters, theta included; before, it was rope_scaling beside rope_theta.
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(written, dict):
        raise CheckpointError(f"{path}: rope scaling is {shortened(written)}; it must be a JSON object")
    beside = {key: config[key] for key in ("rope_theta",) if config.get(key) is not None}
    rope = _validated(
        path, beside | {key: written[key] for key in written if written[key] is not None}, "rope_scaling."
    )
    original = options.original_max_position_embeddings or rope.original_max_position_embeddings
    try:
        scaling = _hf_scaling(path, rope, original, max_position_embeddings, options.longrope_types)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return rope.rope_theta or options.default_theta, scaling


def _hf_scaling(
    path: Path, rope: _HfRope, original: int | None, max_position_embeddings: int, longrope_types: tuple[str, ...]
) -> RopeScaling:
    kind = rope.rope_type or rope.type or "default"
    kind = "longrope" if kind in longrope_types else kind

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
    raise CheckpointError(f"{path}: rope type is {shortened(kind)}; allowed: {allowed}")


def _yarn_attention(rope: _HfRope) -> float | None:
    """Where both mscales are given, their ratio; else None, which is the default."""
    if not (rope.mscale and rope.mscale_all_dim):
        return None
    growth = 0.1 * math.log(max(rope.factor, 1.0))
    return (1.0 + rope.mscale * growth) / (1.0 + rope.mscale_all_dim * growth)


class _GgufRope(GgufSection):
    """A number of 0 is absent, as in llama.cpp."""

    kind: str = Field("linear", alias="{arch}.rope.scaling.type")
    freq_base: _NumberOrZero = Field(0.0, alias="{arch}.rope.freq_base")
    scale_linear: _NumberOrZero = Field(0.0, alias="{arch}.rope.scale_linear")
    factor: _NumberOrZero = Field(0.0, alias="{arch}.rope.scaling.factor")
    attn_factor: _NumberOrZero = Field(0.0, alias="{arch}.rope.scaling.attn_factor")
    original_context: _CountOrZero = Field(0, alias="{arch}.rope.scaling.original_context_length")
    beta_fast: _NumberOrZero = Field(0.0, alias="{arch}.rope.scaling.yarn_beta_fast")
    beta_slow: _NumberOrZero = Field(0.0, alias="{arch}.rope.scaling.yarn_beta_slow")
    yarn_attn_factor: _NumberOrZero = Field(0.0, alias="{arch}.rope.scaling.yarn_attn_factor")


def gguf_rope(file: GgufFile, head_dim: int) -> tuple[float, RopeScaling]:
    """The base and the scaling that a GGUF file says, read as llama.cpp does; of yarn's own keys see below.

    Raises CheckpointError for another kind of scaling, and for values that cannot be.
    """
    rope = file.metadata.section(_GgufRope, file.architecture)
    if rope.kind not in GGUF_TYPES:
        allowed = ", ".join(map(repr, GGUF_TYPES))
        raise CheckpointError(
            f"{file.path}: {file.architecture}.rope.scaling.type is {shortened(rope.kind)}; allowed: {allowed}"
        )
    try:
        scaling = _gguf_scaling(file, rope, head_dim)
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return shortest_float(rope.freq_base or DEFAULT_THETA), scaling


def _gguf_scaling(file: GgufFile, rope: _GgufRope, head_dim: int) -> RopeScaling:
    # scale_linear is the older spelling of the same number.
    factor = shortest_float(rope.factor or rope.scale_linear or 1.0)
    attention = shortest_float(rope.attn_factor or 1.0)
    original = rope.original_context or None
    if rope.kind == "longrope" or LONG_FACTORS in file.tensors:  # files of Phi-3 say it by their tensors alone
        # llama.cpp divides positions by `factor` too. It is no measure of the attention factor there.
        short, long = (_factors_of_pairs(file, name, head_dim, factor) for name in (SHORT_FACTORS, LONG_FACTORS))
        return RopeScaling(
            "longrope",
            original_max_position_embeddings=original,
            attention_factor=attention,
            short_factor=short,
            long_factor=long,
        )
    divisors = _factors_of_pairs(file, DIVISORS, head_dim) if DIVISORS in file.tensors else ()
    divisors = divisors if any(number != 1.0 for number in divisors) else ()
    if rope.kind == "yarn" and factor != 1.0:
        # llama.cpp reads yarn's own keys of other architectures only; converters put there what transformers uses.
        derived = rope.yarn_attn_factor or 1.0 + 0.1 * math.log(factor)
        return RopeScaling(
            rope.kind,
            factor=factor,
            original_max_position_embeddings=original,
            beta_fast=shortest_float(rope.beta_fast or 32.0),
            beta_slow=shortest_float(rope.beta_slow or 1.0),
            attention_factor=derived * attention,
            divisors=divisors,
        )
    common = {"divisors": divisors, "attention_factor": attention if attention != 1.0 else None}
    return RopeScaling("linear", factor, **common) if rope.kind == "linear" and factor != 1.0 else RopeScaling(**common)


def _factors_of_pairs(file: GgufFile, name: str, head_dim: int, times: float = 1.0) -> tuple[float, ...]:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{file.path}: tensor {name} is missing, which a rotation scaled by longrope needs")
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


def _validated(path: Path, values: dict[str, Any], prefix: str) -> _HfRope:
    """The keys that stand behind `prefix` in the file."""
    try:
        return _HfRope.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
    name, *places = problem["loc"]
    where = f"{'' if name == 'rope_theta' else prefix}{name}" + "".join(f"[{place}]" for place in places)
    needed = problem["msg"].removeprefix("Input should be ")
    raise CheckpointError(f"{path}: {where} is {shortened(problem['input'])}; it must be {needed}")
