"""The forms in which a prompt may be given: text, token ids, messages, or a mapping that names which of them it is."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindspore_paged.errors import RequestError
from mindspore_paged.tokenizer import Tokenizer
from mindspore_paged.tools.chats import chat_in_form
from mindspore_paged.tools.forms import form_of
from mindspore_paged.wording import shortened

Prompt = str | Sequence[int] | Sequence[dict[str, Any]] | Mapping[str, Any]
"""Text, token ids (NumPy's too), chat messages, or a mapping with one of PROMPT_KEYS and, for messages, CHAT_KEYS."""

PROMPT_KEYS = ("prompt", "prompt_token_ids", "messages")
CHAT_KEYS = ("tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


def is_one_prompt(prompts: Any) -> bool:
    """Whether this is a prompt, and not several."""
    if isinstance(prompts, str | Mapping):
        return True
    if isinstance(prompts, np.ndarray):
        return prompts.ndim < 2
    if not isinstance(prompts, Sequence) or not prompts:
        return False
    return isinstance(prompts[0], int | np.integer) or _is_message(prompts[0])


def text_or_token_ids(
    prompt: Prompt,
    tokenizer: Tokenizer | None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    most_tokens: int | None = None,
) -> str | Sequence[int]:
    """What the engine takes of any form of prompt; raises RequestError for what is none, or messages without template.

    A null in a mapping means that the key is not there. chat_template_kwargs: for chats whose own do not say otherwise.
    most_tokens: a chat that cannot have so few is refused before it is encoded.
    """
    if isinstance(prompt, Mapping):
        key, value, options = unpacked(prompt)
    elif isinstance(prompt, Sequence) and prompt and _is_message(prompt[0]):
        key, value, options = "messages", prompt, {}
    elif isinstance(prompt, Sequence | np.ndarray) and not isinstance(prompt, bytes):
        return prompt
    else:
        raise RequestError(
            f"the prompt is {shortened(prompt)}; it must be text, a list of token ids, or a list of messages"
        )
    if key != "messages":
        return value
    if tokenizer is None:
        raise RequestError("messages need a tokenizer with a chat template; this model has none")
    own = options.get("chat_template_kwargs", {})
    if chat_template_kwargs and isinstance(own, Mapping):  # the tokenizer says what else it must be
        options |= {"chat_template_kwargs": {**chat_template_kwargs, **own}}
    messages, tools = chat_in_form(form_of(tokenizer.template_with_tools), value, options.get("tools"))
    if tools != options.get("tools"):
        options |= {"tools": tools}
    return tokenizer.encode_chat(list(messages), most_tokens=most_tokens, **options)


MOST_NAMED = 15
"""Keys that a refusal names."""


def unpacked(prompt: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Which of PROMPT_KEYS a mapping has, its value, and CHAT_KEYS; raises RequestError for other keys or kinds."""
    given = {key: value for key, value in prompt.items() if value is not None}
    keys = [key for key in PROMPT_KEYS if key in given]
    if len(keys) != 1:
        raise RequestError(f"it has {', '.join(keys) or 'none'} of {', '.join(PROMPT_KEYS)}; exactly one is needed")
    value = given.pop(keys[0])
    check_keys(given, (*PROMPT_KEYS, *CHAT_KEYS))
    if given and keys[0] != "messages":
        raise RequestError(f"{', '.join(given)} belongs to messages, but it has {keys[0]}")
    holds = {"prompt": str, "prompt_token_ids": list | tuple | np.ndarray, "messages": list | tuple}
    if not isinstance(value, holds[keys[0]]):
        allowed = {
            "prompt": "a string",
            "prompt_token_ids": "a list of whole numbers",
            "messages": "a list of messages",
        }
        raise RequestError(f"{keys[0]} is {shortened(value)}; it must be {allowed[keys[0]]}")
    return keys[0], value, given


def check_keys(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise RequestError for a key that is not known, with the nearest that is."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {_named(known)}"
            raise RequestError(f"unknown key {shortened(key)}; {hint}")


def _named(keys: Sequence[str]) -> str:
    """Names for one line: the first of them where there are many, as the documentation lists all."""
    return ", ".join(keys) if len(keys) <= MOST_NAMED else f"{', '.join(keys[:MOST_NAMED])}, … (--help lists all)"


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(key in value for key in PROMPT_KEYS)
