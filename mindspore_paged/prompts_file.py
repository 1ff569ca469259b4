"""Prompts from a JSON Lines file: one request a line, with sampling keys of its own."""

import itertools
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mindspore_paged.config.yaml_file import without_repeated_keys
from mindspore_paged.engine.requests.prompt_forms import CHAT_KEYS, PROMPT_KEYS, check_keys, unpacked
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer.messages import checked_messages, checked_tools

REQUEST_KEYS = ("priority", "request_class", "cache_salt", "lora_adapter")
SAMPLING_KEYS = tuple(field.name for field in fields(SamplingParams))
_NULL_IS_A_VALUE = ("max_tokens", "seed", "logprobs")
_KNOWN = (*PROMPT_KEYS, *SAMPLING_KEYS, *REQUEST_KEYS, *CHAT_KEYS)

MAX_LINE = 2**24
"""Bytes of a line; what models read in one piece has a few millions."""


@dataclass(frozen=True)
class PromptEntry:
    """One request as it was given; origin says where, for errors that only the model can find."""

    prompt: Any
    params: SamplingParams | BeamSearchParams
    origin: str
    priority: int = 0
    request_class: str | None = None
    cache_salt: str | None = None
    lora_adapter: str | None = None


def read_prompts_file(path: Path, defaults: SamplingParams) -> list[PromptEntry]:
    """The prompts of the file and their sampling params, `defaults` changed by the keys of each line.

    A line is `{"prompt": text}`, `{"prompt_token_ids": [..]}` or `{"messages": [{"role", "content"}, ..]}`, with
    REQUEST_KEYS and sampling keys if it likes, and for messages CHAT_KEYS; null means that a key is not there. Empty
    lines are skipped. Raises RequestError that names the file and the line.
    """
    prompts = []
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    break
                origin = f"{path} line {number}"
                try:
                    entry = _parse_line(line, defaults, origin)
                except RequestError as error:
                    raise RequestError(f"{origin}: {error}") from None
                prompts += [] if entry is None else [entry]
    except OSError as error:
        raise RequestError(f"{path}: cannot read the prompts: {error.strerror}") from None
    if not prompts:
        raise RequestError(f"{path}: no prompts in it")
    return prompts


def _parse_line(line: bytes, defaults: SamplingParams, origin: str) -> PromptEntry | None:
    if len(line) > MAX_LINE:
        raise RequestError(f"it has more than {MAX_LINE} bytes")
    if not line.strip():
        return None
    entry = _parse_json(line)
    check_keys(entry, _KNOWN)
    sampling = {
        key: value
        for key, value in entry.items()
        if key in SAMPLING_KEYS and (value is not None or key in _NULL_IS_A_VALUE)
    }
    if sampling.get("logits_processors"):
        raise RequestError("logits_processors names code, which a prompts file may not; sampling.logits_processors may")
    of_request = {key: entry[key] for key in REQUEST_KEYS if entry.get(key) is not None}
    of_prompt = {key: value for key, value in entry.items() if key in (*PROMPT_KEYS, *CHAT_KEYS)}
    key, prompt, options = unpacked(of_prompt)
    if key == "messages":
        checked_messages(prompt)
        checked_tools(options.get("tools"))
    elif key == "prompt_token_ids" and not all(type(token) is int for token in prompt):
        raise RequestError("prompt_token_ids must be a list of whole numbers")
    prompt = {key: prompt, **options} if options else prompt
    return PromptEntry(prompt, replace(defaults, **sampling), origin, **of_request)


def _parse_json(line: bytes) -> dict[str, Any]:
    try:
        # Files from Windows begin with a byte order mark.
        entry = json.loads(
            line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n"), object_pairs_hook=without_repeated_keys
        )
        json.dumps(entry, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError("it holds half a surrogate pair, which is no Unicode text") from None
    except UnicodeDecodeError:
        raise RequestError("not a prompts file: it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise RequestError(f"not JSON that can be read: {error}") from None
    if not isinstance(entry, dict):
        raise RequestError("not a JSON object")
    return entry
