"""Prompts from a JSON Lines file: one request a line, with sampling keys of its own."""

import difflib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling_params import SamplingParams

PROMPT_KEYS = ("prompt", "prompt_token_ids", "messages")
REQUEST_KEYS = ("priority", "request_class")
SAMPLING_KEYS = tuple(field.name for field in fields(SamplingParams))


@dataclass(frozen=True)
class PromptEntry:
    """One request as it was given; origin says where, for errors that only the model can find."""

    prompt: Any
    params: SamplingParams
    origin: str
    priority: int = 0
    request_class: str | None = None


def read_prompts_file(path: Path, defaults: SamplingParams) -> list[PromptEntry]:
    """The prompts of the file and their sampling params, `defaults` changed by the keys of each line.

    A line is `{"prompt": text}`, `{"prompt_token_ids": [..]}` or `{"messages": [{"role", "content"}, ..]}`, with
    `priority`, `request_class` and sampling keys if it likes; empty lines are skipped. Raises RequestError that names
    the file and the line.
    """
    try:
        # Not splitlines(): JSON text may hold other characters that end a line for Python.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise RequestError(f"{path}: cannot read the prompts: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: not a prompts file: it is not UTF-8 text") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            origin = f"{path} line {number}"
            try:
                prompts.append(_parse_line(line, defaults, origin))
            except RequestError as error:
                raise RequestError(f"{origin}: {error}") from None
    if not prompts:
        raise RequestError(f"{path}: no prompts in it")
    return prompts


def _parse_line(line: str, defaults: SamplingParams, origin: str) -> PromptEntry:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise RequestError(f"not JSON that can be read: {error}") from None
    if not isinstance(entry, dict):
        raise RequestError("not a JSON object")
    given = [key for key in PROMPT_KEYS if key in entry]
    if len(given) != 1:
        raise RequestError(f"it has {', '.join(given) or 'none'} of {', '.join(PROMPT_KEYS)}; exactly one is needed")
    others = {key: value for key, value in entry.items() if key not in PROMPT_KEYS}
    known = (*PROMPT_KEYS, *SAMPLING_KEYS, *REQUEST_KEYS)
    for key in others:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise RequestError(f"unknown key {key!r}; {hint}")
    of_request = {key: others.pop(key) for key in REQUEST_KEYS if key in others}
    prompt = _checked_prompt(given[0], entry[given[0]])
    return PromptEntry(prompt, replace(defaults, **others), origin, **of_request)


def _checked_prompt(key: str, value: Any) -> Any:
    if key == "prompt":
        holds = isinstance(value, str)
    elif key == "prompt_token_ids":
        holds = isinstance(value, list) and all(type(token) is int for token in value)
    else:
        holds = isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value)
    if not holds:
        allowed = {
            "prompt": "a string",
            "prompt_token_ids": "a list of whole numbers",
            "messages": "a list of objects with role and content",
        }
        raise RequestError(f"{key} must be {allowed[key]}")
    return value
