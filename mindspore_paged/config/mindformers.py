"""A MindFormers predict YAML for LLaMA, Qwen2 or Qwen3, mapped onto the sections of `mindspore_paged.config`.

MindFormers' own classes read the file, so its defaults hold; `mindformers_classes` says what they call things. What
would change the generated text and cannot be honoured is refused; whatever else has no counterpart is named in one
warning.
"""

import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mindspore_paged.config.mindformers_classes import (
    CLASSES,
    MODEL,
    ConfigClass,
    LlamaKeys,
    ModelKeys,
    given_dimensions,
)
from mindspore_paged.config.quiet_mindformers import quiet_mindformers
from mindspore_paged.config.sections import SchedulerSection
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.errors import ConfigError
from mindspore_paged.wording import one_line, shortened

log = logging.getLogger("mindspore_paged")

# What MindFormers computes differently from us unless the key has this value (or none).
_REFUSED_UNLESS = {
    f"{MODEL}.quant_config": {},
    f"{MODEL}.quantization_config": {},
    f"{MODEL}.pet_config": {},
    f"{MODEL}.moe_config.expert_num": 1,
    "moe_config.expert_num": 1,
    f"{MODEL}.min_length": 0,
    f"{MODEL}.min_new_tokens": 0,
    f"{MODEL}.encoder_repetition_penalty": 1.0,
}
# These spread the work over devices; fewer devices give the same text.
_SPREADING = tuple(f"parallel_config.{kind}" for kind in ("pipeline_stage", "context_parallel", "expert_parallel"))
_GENERATION_KEYS = (
    *("temperature", "top_k", "top_p", "repetition_penalty"),
    *("max_decode_length", "max_length", "max_new_tokens"),
)
_FOLDER_KEY = "pretrained_model_dir"
_WEIGHTS_KEYS = ("load_checkpoint", _FOLDER_KEY, f"{MODEL}.checkpoint_name_or_path")
_TOKENIZER_KEYS = ("processor.tokenizer.tokenizer_file", "processor.tokenizer.vocab_file")
_JIT_LEVEL_KEYS = ("context.jit_config.jit_level", "context.jit_level")


def map_predict_config(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict:
    """The sections that `data`, a MindFormers predict YAML, amounts to, by the keys of our own YAML.

    `overrides` are the caller's changes to our sections; they are not applied here, but a device or a dtype chosen
    there decides what is worth a warning. Relative paths start at the working directory, as in MindFormers. Raises
    ConfigError that names the key for a file of another kind, and for settings that change the text and are not
    supported; the others that have no effect are named in one warning of the logger `mindspore_paged`.
    """
    kind = _class_of(data)
    _refuse_what_cannot_be_honoured(data, kind)
    keys, generation = _read_with_mindformers(data, kind)
    notes: list[str] = []
    sections = {
        "model": _model(data, keys, notes),
        "cache": {"block_size": keys.block_size, "num_blocks": keys.num_blocks},
        "scheduler": _scheduler(keys, notes),
        "runtime": _runtime(data, notes),
        "parallel": _parallel(data),
        "sampling": _sampling(data, keys, generation, notes),
    }
    _fit_dtype_to_device(sections, overrides, notes)
    notes += [f"{key} is {_get(data, key)}, run as 1" for key in _SPREADING if (_get(data, key) or 1) != 1]
    ignored = ", ".join(_ignored_keys(data, _used(kind)))
    notes += [f"no effect here: {ignored}"] if ignored else []
    if notes:
        log.warning("MindFormers configuration: %s", "; ".join(notes))
    return sections


def _get(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _class_of(data: Mapping) -> ConfigClass:
    """By the type that the file gives, or, with use_legacy: False, by model_type, or by its folder, which knows."""
    if "base_config" in data:
        raise ConfigError("base_config is not supported: put the base file's keys into this one")
    if _get(data, "run_mode") not in (None, "predict"):
        raise ConfigError(
            f"run_mode is {shortened(data['run_mode'])}; a MindFormers file can be used where it is predict"
        )
    given = _get(data, f"{MODEL}.type")
    types = {kind.model_type: kind for kind in CLASSES.values() if kind.keys is not LlamaKeys}
    if given is None and _get(data, "use_legacy") is False:
        model_type = _get(data, f"{MODEL}.model_type")
        if model_type is None and _get(data, _FOLDER_KEY):
            return CLASSES["Qwen3Config"]  # its names are Hugging Face's, and those that the file lacks the folder has
        if isinstance(model_type, str) and model_type in types:
            return types[model_type]
        raise ConfigError(
            f"{MODEL}.model_type is {shortened(model_type)}; a MindFormers file can be used where it is "
            f"{', '.join(types)}"
        )
    if not isinstance(given, str) or given not in CLASSES:
        raise ConfigError(
            f"{MODEL}.type is {shortened(given)}; a MindFormers file can be used where it is {', '.join(CLASSES)}"
        )
    return CLASSES[given]


def _refuse_what_cannot_be_honoured(data: Mapping, kind: ConfigClass):
    architecture = _get(data, "model.arch.type")
    if architecture not in (None, kind.architecture):
        raise ConfigError(
            f"model.arch.type is {shortened(architecture)}; a MindFormers file can be used where it is "
            f"{kind.architecture}"
        )
    for key, allowed in kind.keys.neutral.items():
        value = _get(data, f"{MODEL}.{key}")
        if value is not None and value not in allowed:
            raise ConfigError(
                f"{MODEL}.{key} is {shortened(value)}; a MindFormers file can be used where it is {allowed[0]}"
            )
    for key, neutral in _REFUSED_UNLESS.items():
        value = _get(data, key)
        if value is not None and value != neutral:
            raise ConfigError(f"{key} is {shortened(value)}: not supported, and without it the text would differ")


def _read_with_mindformers(data: Mapping, kind: ConfigClass) -> tuple[ModelKeys, Any]:
    with quiet_mindformers():
        # Seconds and a log file: only those who bring a MindFormers file pay.
        from mindformers import MindFormerConfig
        from mindformers.generation import GenerationConfig

        config_class = getattr(importlib.import_module(kind.module), kind.name)
        given = {key: value for key, value in _given(data).items() if key != "type"}
        try:
            config = config_class(**MindFormerConfig(**given))
            if kind.keys is LlamaKeys:
                generation = GenerationConfig.from_model_config(config)
            else:
                folder = _path(data, _FOLDER_KEY)
                generation = GenerationConfig.from_pretrained(folder) if folder else GenerationConfig()
                generation = GenerationConfig.from_dict(generation.to_dict() | (_get(data, "generation_config") or {}))
            return kind.keys.model_validate(config), generation
        except ValidationError as error:
            problem = error.errors()[0]
            allowed = problem["msg"].removeprefix("Input should be ")
            raise ConfigError(
                f"{MODEL}.{problem['loc'][0]} is {shortened(problem['input'])}; it must be {allowed}"
            ) from None
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - its classes check nothing by themselves: what they raise is chance
            raise ConfigError(f"{MODEL}: MindFormers refuses it: {one_line(error)}") from None


def _given(data: Mapping) -> Mapping:
    given = _get(data, MODEL)
    return given if isinstance(given, Mapping) else {}


def _model(data: Mapping, keys: ModelKeys, notes: list[str]) -> dict:
    # With a Hugging Face folder the file's keys are changes to its config.json.
    is_described = not isinstance(keys, LlamaKeys) and bool(_get(data, _FOLDER_KEY))
    config = given_dimensions(keys, _given(data)) if is_described else keys.dimensions()
    return {
        "config": config or None,
        "weights": _weights(data, notes),
        "tokenizer": _tokenizer(data),
        "dtype": keys.compute_dtype,
    }


def _tokenizer(data: Mapping) -> Path | None:
    path = next((Path(path) for key in _TOKENIZER_KEYS if (path := _path(data, key))), None)
    # Qwen's vocab.json is half a tokenizer: its folder has the whole one.
    return path.parent if path is not None and path.name == "vocab.json" else path


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


def _scheduler(keys: ModelKeys, notes: list[str]) -> dict:
    scheduler: dict[str, int] = {} if keys.batch_size is None else {"max_num_seqs": keys.batch_size}
    if (keys.batch_size or 0) > SchedulerSection().max_num_batched_tokens:
        scheduler["max_num_batched_tokens"] = keys.batch_size
    pool_tokens = (keys.num_blocks - 1) * keys.block_size  # one block is the null block
    if keys.seq_length <= pool_tokens:
        scheduler["max_model_len"] = keys.seq_length
    else:
        notes.append(f"{MODEL}.seq_length is {keys.seq_length}: a sequence ends at the {pool_tokens} of the pool")
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


def _sampling(data: Mapping, keys: ModelKeys, generation: Any, notes: list[str]) -> dict:
    is_legacy = isinstance(keys, LlamaKeys)
    sampling = {"temperature": 0.0, "repetition_penalty": generation.repetition_penalty}
    if keys.do_sample if is_legacy else generation.do_sample:
        sampling |= {key: getattr(generation, key) for key in ("temperature", "top_k", "top_p")}
    if generation.max_new_tokens is not None or is_legacy:
        sampling["max_tokens"] = generation.max_new_tokens
    if generation.max_new_tokens is None and is_legacy:
        sampling["max_tokens"] = generation.max_length
        if _get(data, f"{MODEL}.max_decode_length") is not None:
            notes.append(f"{MODEL}.max_decode_length becomes sampling.max_tokens, which does not count the prompt")
    return sampling


def _fit_dtype_to_device(sections: dict, overrides: Mapping, notes: list[str]):
    """Compute in float32 on a CPU, where float16 multiplies ten times slower and bfloat16 not at all."""
    backend = BACKENDS.get(str(_get(overrides, "runtime.ops_backend") or "cpu"))
    device = _get(overrides, "runtime.device_target") or (backend.device if backend else "CPU")
    dtype = sections["model"]["dtype"]
    if device == "CPU" and dtype != "float32" and _get(overrides, "model.dtype") is None:
        sections["model"]["dtype"] = "float32"
        notes.append(f"{MODEL}.compute_dtype is {dtype}, run as float32 on a CPU")


# Read above, or true of this engine whatever they say.
_USED = {
    "run_mode",
    "use_legacy",
    "load_ckpt_format",
    "use_parallel",
    "parallel_config.model_parallel",
    "parallel_config.data_parallel",
    "model.arch.type",
    "context.device_target",
    *(f"{MODEL}.{name}" for name in ("type", "use_past", "qkv_concat")),
    *_REFUSED_UNLESS,
    *_SPREADING,
    *_WEIGHTS_KEYS,
    *_TOKENIZER_KEYS,
    *_JIT_LEVEL_KEYS,
}


def _used(kind: ConfigClass) -> set[str]:
    if kind.keys is LlamaKeys:
        generation = {f"{MODEL}.{name}" for name in _GENERATION_KEYS}
    else:
        generation = {f"generation_config.{name}" for name in (*_GENERATION_KEYS[:4], "max_new_tokens", "do_sample")}
    fields = (*kind.keys.model_fields, *kind.keys.neutral)
    return _USED | generation | {f"{MODEL}.{name}" for name in (*fields, "model_type")}


def _ignored_keys(data: Mapping, used: Set[str], prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        dotted = f"{prefix}{key}"
        if dotted in used:
            continue
        if isinstance(value, Mapping) and any(each.startswith(f"{dotted}.") for each in used):
            yield from _ignored_keys(value, used, f"{dotted}.")
        else:
            yield dotted
