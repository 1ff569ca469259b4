"""The engine's configuration: read from YAML, changed by overrides, and checked before anything is built."""

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mindspore_paged.config.sections import (
    DEMO_WEIGHTS,
    RANDOM_WEIGHTS,
    SENTENCE,
    UNKNOWN_SAMPLING_KEY,
    CacheSection,
    EngineConfig,
    ModelSection,
    ParallelSection,
    RuntimeSection,
    SchedulerSection,
)
from mindspore_paged.config.server_section import ServerSection
from mindspore_paged.config.yaml_file import MAX_DEPTH, parse_value, read_mapping
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig, RopeScaling
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.wording import shortened

MOST_KNOWN = 400
"""Characters of a list of known keys in an error's line."""

_KEYS = {
    section: [key.name for key in fields(kind)]
    for section, kind in {
        "model": ModelSection,
        "cache": CacheSection,
        "scheduler": SchedulerSection,
        "runtime": RuntimeSection,
        "parallel": ParallelSection,
        "server": ServerSection,
        "sampling": SamplingParams,
        "model.config": ModelConfig,
        "model.config.rope_scaling": RopeScaling,
    }.items()
}
_PATHS = (
    ("model", "weights"),
    ("model", "tokenizer"),
    ("model", "verify_key"),
    ("cache", "page_files"),
    ("cache", "page_key"),
    ("scheduler", "speculative_model"),
    ("runtime", "event_log"),
    ("server", "api_key_file"),
    ("server", "tls_certificate"),
    ("server", "tls_key"),
)
_WORDS = {"weights": (DEMO_WEIGHTS, RANDOM_WEIGHTS), "speculative_model": (DEMO_WEIGHTS,)}
"""What is no path where one may stand."""
_SECTIONS = [key.name for key in fields(EngineConfig)]


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> EngineConfig:
    """The configuration in the YAML file at `path` (None: the defaults), changed by `section.key=value` overrides.

    A relative path in it starts at the file's own folder; one in an override, at the working directory.
    A MindFormers predict YAML is accepted too (see `mindformers_config`), and overrides take our own keys there as
    well. Raises ConfigError, one line, for a file, key or value that cannot be used.
    """
    chosen = _parse_overrides(overrides)
    data = {} if path is None else _read_sections(Path(path), chosen)
    return config_from_dict(_merged(data, chosen))


def config_from_dict(data: Mapping[str, Any]) -> EngineConfig:
    """The configuration that nested dictionaries describe, by the keys of the YAML; raises ConfigError.

    A relative `weights` or `tokenizer` starts at the working directory; a section that is None has its defaults.
    """
    try:
        return TypeAdapter(EngineConfig).validate_python(
            {key: value for key, value in data.items() if value is not None}
        )
    except ValidationError as error:
        first, *others = [_explain(problem) for problem in error.errors()]
        raise ConfigError(first + (f" (and {len(others)} more)" if others else "")) from None


def _read_sections(path: Path, chosen: dict) -> dict:
    data = read_mapping(path)
    model = data.get("model")
    if "run_mode" in data or (isinstance(model, dict) and "model_config" in model):
        # MindFormers takes seconds to import: only its own files pay.
        from mindspore_paged.config.mindformers import map_predict_config

        return map_predict_config(data, chosen)
    for section, key in _PATHS:
        values = data.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        words = _WORDS.get(key, ())
        if isinstance(value, str) and value and value[0] != "~" and value not in words:
            values[key] = path.parent / value
    return data


def _parse_overrides(overrides: Sequence[str]) -> dict:
    chosen: dict = {}
    for text in overrides:
        dotted, equals, value = text.partition("=")
        keys = dotted.split(".")
        if not equals or len(keys) < 2 or not all(keys) or len(keys) > MAX_DEPTH:
            raise ConfigError(f"override {shortened(text)} must look like section.key=value")
        nested = parse_value(value, f"override {shortened(text)}")
        for key in reversed(keys):
            nested = {key: nested}
        chosen = _merged(chosen, nested)
    return chosen


def _merged(base: Mapping, changes: Mapping, prefix: str = "") -> dict:
    merged = dict(base)
    # The pool has one size: choosing it one way takes back what the file said the other way.
    for key, other in (("num_blocks", "memory_budget"), ("memory_budget", "num_blocks")):
        if prefix == "cache." and changes.get(key) is not None and other not in changes:
            merged.pop(other, None)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and below is not None:
            if not isinstance(below, Mapping):
                raise ConfigError(f"{prefix}{key} is {shortened(below)}; it must be a mapping of keys")
            value = _merged(below, value, f"{prefix}{key}.")
        merged[key] = value
    return merged


_ALLOWED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "dataclass_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}


def _explain(problem: Mapping) -> str:
    kind, where = problem["type"], problem["loc"]
    if kind == SENTENCE:
        return problem["msg"]
    if kind == UNKNOWN_SAMPLING_KEY:
        return _unknown_key((*where, problem["msg"]))
    if kind in ("unexpected_keyword_argument", "extra_forbidden", "invalid_key"):
        return _unknown_key(where)
    if kind == "value_error":
        allowed = str(problem["ctx"]["error"])
    else:
        allowed = _ALLOWED.get(kind) or problem["msg"].removeprefix("Input should be ")
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
    return f"{dotted} is {shortened(problem['input'])}; it must be {allowed}"


def _unknown_key(where: Sequence) -> str:
    *parents, name = (shortened(part).strip("'") for part in where)
    dotted = ".".join([*parents, name])
    siblings = _KEYS[".".join(parents)] if parents else _SECTIONS
    elsewhere = {key: f"{section}.{key}" for section, keys in reversed(_KEYS.items()) for key in keys}
    near = difflib.get_close_matches(name, siblings, n=1)
    if name in elsewhere:
        return f"unknown key {dotted}; did you mean {elsewhere[name]}?"
    if near:
        return f"unknown key {dotted}; did you mean {'.'.join([*parents, *near])}?"
    for key in difflib.get_close_matches(name, elsewhere, n=1):
        return f"unknown key {dotted}; did you mean {elsewhere[key]}?"
    known = textwrap.shorten(", ".join(siblings), MOST_KNOWN, placeholder=" …")
    return f"unknown key {dotted}; known keys: {known}"
