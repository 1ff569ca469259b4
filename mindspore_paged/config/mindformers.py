"""A MindFormers predict YAML for a LLaMA, mapped onto the sections of `mindspore_paged.config`.

MindFormers' own classes read the file, so its defaults hold. What would change the generated text and cannot be
honoured is refused; whatever else has no counterpart is named in one warning.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from mindspore_paged.config.quiet_mindformers import quiet_mindformers
from mindspore_paged.config.sections import SchedulerSection
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.errors import ConfigError
from mindspore_paged.wording import one_line, shortened

log = logging.getLogger("mindspore_paged")

_MODEL = "model.model_config"

# What MindFormers computes differently from us unless the key has this value (or none).
_REFUSED_UNLESS = {
    f"{_MODEL}.quant_config": {},
    f"{_MODEL}.quantization_config": {},
    f"{_MODEL}.pet_config": {},
    f"{_MODEL}.moe_config.expert_num": 1,
    "moe_config.expert_num": 1,
    f"{_MODEL}.min_length": 0,
    f"{_MODEL}.min_new_tokens": 0,
    f"{_MODEL}.encoder_repetition_penalty": 1.0,
}
# These spread the work over devices; fewer devices give the same text.
_SPREADING = tuple(f"parallel_config.{kind}" for kind in ("pipeline_stage", "context_parallel", "expert_parallel"))
_SCALING_FACTOR_KEYS: dict[str, set | None] = {
    "NTK": None,
    "PI": None,
    "linear": {"factor"},
    "LLAMA3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
_GENERATION_KEYS = (
    *("temperature", "top_k", "top_p", "repetition_penalty"),
    *("max_decode_length", "max_length", "max_new_tokens"),
)
_WEIGHTS_KEYS = ("load_checkpoint", "pretrained_model_dir", f"{_MODEL}.checkpoint_name_or_path")
_TOKENIZER_KEYS = ("processor.tokenizer.tokenizer_file", "processor.tokenizer.vocab_file")
_JIT_LEVEL_KEYS = ("context.jit_config.jit_level", "context.jit_level")


class _Llama(BaseModel):
    """The attributes of MindFormers' LlamaConfig that have a counterpart here; it does not check them itself."""

    model_config = ConfigDict(strict=True, from_attributes=True)

    batch_size: PositiveInt
    seq_length: PositiveInt
    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    n_kv_heads: PositiveInt | None
    max_position_embedding: PositiveInt
    intermediate_size: PositiveInt | None
    vocab_size: PositiveInt
    multiple_of: PositiveInt
    ffn_dim_multiplier: PositiveFloat | None
    rms_norm_eps: PositiveFloat
    theta: PositiveFloat
    extend_method: str | None
    scaling_factor: PositiveFloat | dict[str, Any]
    tie_word_embeddings: bool
    qkv_has_bias: bool
    attn_proj_has_bias: bool
    bos_token_id: NonNegativeInt | None
    eos_token_id: NonNegativeInt | list[NonNegativeInt] | None
    block_size: PositiveInt
    num_blocks: PositiveInt
    do_sample: bool
    compute_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], BeforeValidator(lambda dtype: str(dtype).lower())
    ]


def map_predict_config(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict:
    """The sections that `data`, a MindFormers predict YAML, amounts to, by the keys of our own YAML.

    `overrides` are the caller's changes to our sections; they are not applied here, but a device or a dtype chosen
    there decides what is worth a warning. Relative paths start at the working directory, as in MindFormers. Raises
    ConfigError that names the key for a file of another kind, and for settings that change the text and are not
    supported; the others that have no effect are named in one warning of the logger `mindspore_paged`.
    """
    _refuse_what_cannot_be_honoured(data)
    llama, generation = _read_with_mindformers(data["model"]["model_config"])
    notes: list[str] = []
    sections = {
        "model": _model(data, llama, generation, notes),
        "cache": {"block_size": llama.block_size, "num_blocks": llama.num_blocks},
        "scheduler": _scheduler(llama, notes),
        "runtime": _runtime(data, notes),
        "parallel": _parallel(data),
        "sampling": _sampling(data, llama, generation, notes),
    }
    _fit_dtype_to_device(sections, overrides, notes)
    notes += [f"{key} is {_get(data, key)}, run as 1" for key in _SPREADING if (_get(data, key) or 1) != 1]
    ignored = ", ".join(_ignored_keys(data))
    notes += [f"no effect here: {ignored}"] if ignored else []
    if notes:
        log.warning("MindFormers configuration: %s", "; ".join(notes))
    return sections


def _get(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _refuse_what_cannot_be_honoured(data: Mapping):
    if "base_config" in data:
        raise ConfigError("base_config is not supported: put the base file's keys into this one")
    for key, allowed in (
        ("run_mode", (None, "predict")),
        (f"{_MODEL}.type", ("LlamaConfig",)),
        ("model.arch.type", (None, "LlamaForCausalLM")),
    ):
        if _get(data, key) not in allowed:
            raise ConfigError(
                f"{key} is {shortened(_get(data, key))}; a MindFormers file can be used where it is {allowed[-1]}"
            )
    for key, neutral in _REFUSED_UNLESS.items():
        value = _get(data, key)
        if value is not None and value != neutral:
            raise ConfigError(f"{key} is {shortened(value)}: not supported, and without it the text would differ")


def _read_with_mindformers(model_config: Mapping) -> tuple[_Llama, Any]:
    with quiet_mindformers():
        # Seconds and a log file: only those who bring a MindFormers file pay.
        from mindformers import LlamaConfig, MindFormerConfig
        from mindformers.generation import GenerationConfig

        given = {key: value for key, value in model_config.items() if key != "type"}
        try:
            config = LlamaConfig(**MindFormerConfig(**given))
            return _Llama.model_validate(config), GenerationConfig.from_model_config(config)
        except ValidationError as error:
            problem = error.errors()[0]
            allowed = problem["msg"].removeprefix("Input should be ")
            raise ConfigError(
                f"{_MODEL}.{problem['loc'][0]} is {shortened(problem['input'])}; it must be {allowed}"
            ) from None
        except Exception as error:  # noqa: BLE001 - its classes check nothing by themselves: what they raise is chance
            raise ConfigError(f"{_MODEL}: MindFormers refuses it: {one_line(error)}") from None


def _model(data: Mapping, llama: _Llama, generation: Any, notes: list[str]) -> dict:
    if llama.hidden_size % llama.num_heads:
        raise ConfigError(
            f"{_MODEL}.hidden_size is {llama.hidden_size}; it must be a multiple of num_heads ({llama.num_heads})"
        )
    theta, rope_scaling = _rope(llama)
    return {
        "config": {
            "vocab_size": llama.vocab_size,
            "hidden_size": llama.hidden_size,
            "intermediate_size": _intermediate_size(llama),
            "num_hidden_layers": llama.num_layers,
            "num_attention_heads": llama.num_heads,
            "num_key_value_heads": llama.n_kv_heads or llama.num_heads,
            "head_dim": llama.hidden_size // llama.num_heads,
            "max_position_embeddings": max(llama.seq_length, llama.max_position_embedding),
            "rms_norm_eps": llama.rms_norm_eps,
            "rope_theta": theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": llama.tie_word_embeddings,
            "biases": ["q_proj", "k_proj", "v_proj"] * llama.qkv_has_bias + ["o_proj"] * llama.attn_proj_has_bias,
            "bos_token_id": llama.bos_token_id,
            "eos_token_ids": generation.eos_token_id or [],
        },
        "weights": _weights(data, notes),
        "tokenizer": next((Path(path) for key in _TOKENIZER_KEYS if (path := _path(data, key))), None),
        "dtype": llama.compute_dtype,
    }


def _intermediate_size(llama: _Llama) -> int:
    """Width of the feed-forward layer, by the arithmetic of mindformers.models.llama.llama_layer."""
    if llama.intermediate_size is not None:
        return llama.intermediate_size
    width = 4 * llama.hidden_size
    if llama.ffn_dim_multiplier is not None:
        width = int((llama.ffn_dim_multiplier + 0.01) * width)
    width = int(2 * width / 3)
    return llama.multiple_of * -(-width // llama.multiple_of)


def _rope(llama: _Llama) -> tuple[float, dict]:
    """The base and the scaling that give the angles of mindformers.modules.layers.FreqsMgr.

    Its NTK multiplies the base by the factor itself: it is no `ntk` of ours, which raises the factor to D/(D-2).
    """
    method, factor = llama.extend_method or "None", llama.scaling_factor
    if method == "None":
        return llama.theta, {}
    if method not in _SCALING_FACTOR_KEYS:
        allowed = ", ".join(["None", *_SCALING_FACTOR_KEYS])
        raise ConfigError(f"{_MODEL}.extend_method is {shortened(method)}; supported: {allowed}")
    needed = _SCALING_FACTOR_KEYS[method]
    if (set(factor) if isinstance(factor, dict) else None) != needed:
        kind = f"a mapping of {', '.join(sorted(needed))}" if needed else "a number"
        raise ConfigError(
            f"{_MODEL}.scaling_factor is {shortened(factor)}; for extend_method {method} it must be {kind}"
        )
    if method == "NTK":
        return llama.theta * factor, {}
    if method == "PI":
        return llama.theta, {"type": "linear", "factor": factor}
    return llama.theta, {"type": method.lower(), **factor}


def _weights(data: Mapping, notes: list[str]) -> Path | None:
    for key in _WEIGHTS_KEYS:
        value = _path(data, key)
        if not value:
            continue
        path = Path(value)
        bare_name = os.sep not in value and not path.suffix and not os.path.exists(path)  # also where it cannot be one
        if not bare_name or key != _WEIGHTS_KEYS[-1]:
            return path
        notes.append(
            f"{key} {shortened(value)} names a model that MindFormers would download: give model.weights a path"
        )
    return None


def _path(data: Mapping, key: str) -> str | None:
    value = _get(data, key)
    if value and not isinstance(value, str):
        raise ConfigError(f"{key} is {shortened(value)}; it must be a path")
    return value or None


def _scheduler(llama: _Llama, notes: list[str]) -> dict:
    scheduler: dict[str, int] = {"max_num_seqs": llama.batch_size}
    if llama.batch_size > SchedulerSection().max_num_batched_tokens:
        scheduler["max_num_batched_tokens"] = llama.batch_size
    pool_tokens = (llama.num_blocks - 1) * llama.block_size  # one block is the null block
    if llama.seq_length <= pool_tokens:
        scheduler["max_model_len"] = llama.seq_length
    else:
        notes.append(f"{_MODEL}.seq_length is {llama.seq_length}: a sequence ends at the {pool_tokens} of the pool")
    return scheduler


def _runtime(data: Mapping, notes: list[str]) -> dict:
    runtime = {"device_target": _get(data, "context.device_target")}
    if runtime["device_target"] == "Ascend":
        # Nearly every MindFormers file names Ascend, and is to run without one all the same: an NPU is asked for by our
        # own key, runtime.ops_backend.
        runtime["device_target"] = None
        notes.append("context.device_target is Ascend, run on CPU")
    for key in _JIT_LEVEL_KEYS:
        level = _get(data, key)
        if level in ("O0", "O1"):
            runtime["jit_level"] = level
        elif level is not None:
            notes.append(f"{key} is {shortened(level)}, run as O0")
    return runtime


def _parallel(data: Mapping) -> dict:
    """The sizes that count in MindFormers only with use_parallel."""
    if not _get(data, "use_parallel"):
        return {}
    sizes = {"tensor_parallel_size": "model_parallel", "data_parallel_size": "data_parallel"}
    given = {ours: _get(data, f"parallel_config.{theirs}") for ours, theirs in sizes.items()}
    return {ours: size for ours, size in given.items() if size is not None}


def _sampling(data: Mapping, llama: _Llama, generation: Any, notes: list[str]) -> dict:
    sampling = {"temperature": 0.0, "repetition_penalty": generation.repetition_penalty}
    if llama.do_sample:
        sampling |= {key: getattr(generation, key) for key in ("temperature", "top_k", "top_p")}
    sampling["max_tokens"] = generation.max_new_tokens
    if generation.max_new_tokens is None:
        sampling["max_tokens"] = generation.max_length
        if _get(data, f"{_MODEL}.max_decode_length") is not None:
            notes.append(f"{_MODEL}.max_decode_length becomes sampling.max_tokens, which does not count the prompt")
    return sampling


def _fit_dtype_to_device(sections: dict, overrides: Mapping, notes: list[str]):
    """Compute in float32 on a CPU, where float16 multiplies ten times slower and bfloat16 not at all."""
    backend = BACKENDS.get(str(_get(overrides, "runtime.ops_backend") or "cpu"))
    device = _get(overrides, "runtime.device_target") or (backend.device if backend else "CPU")
    dtype = sections["model"]["dtype"]
    if device == "CPU" and dtype != "float32" and _get(overrides, "model.dtype") is None:
        sections["model"]["dtype"] = "float32"
        notes.append(f"{_MODEL}.compute_dtype is {dtype}, run as float32 on a CPU")


# Read above, or true of this engine whatever they say.
_USED = {
    "run_mode",
    "use_parallel",
    "parallel_config.model_parallel",
    "parallel_config.data_parallel",
    "model.arch.type",
    "context.device_target",
    *(f"{_MODEL}.{name}" for name in ("type", "use_past", "qkv_concat", *_GENERATION_KEYS, *_Llama.model_fields)),
    *_REFUSED_UNLESS,
    *_SPREADING,
    *_WEIGHTS_KEYS,
    *_TOKENIZER_KEYS,
    *_JIT_LEVEL_KEYS,
}


def _ignored_keys(data: Mapping, prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        dotted = f"{prefix}{key}"
        if dotted in _USED:
            continue
        if isinstance(value, Mapping) and any(used.startswith(f"{dotted}.") for used in _USED):
            yield from _ignored_keys(value, f"{dotted}.")
        else:
            yield dotted
