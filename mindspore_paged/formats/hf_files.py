"""The small JSON files of a Hugging Face folder that both the weights and the tokenizer read."""

import json
from pathlib import Path
from typing import Any

from mindspore_paged.errors import CheckpointError


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`; raises CheckpointError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__} instead of a JSON object")
    return value


def read_json_object_if_there(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`, empty where there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def generation_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The end-of-sequence tokens of generation_config.json, or else of config.json, as in transformers' `generate`."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json_object_if_there(path).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if value is not None:
            if not all(isinstance(token, int) for token in ids):
                raise CheckpointError(f"{path}: eos_token_id is {value!r}; it must be a token id or a list of them")
            return tuple(ids)
    return ()
