"""Chats with tools in the form that a model's template takes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mindspore_paged.tokenizer.messages import checked_messages, checked_tools
from mindspore_paged.tools.forms import GENERIC, CallForm

SHORT_ID = 9
"""Letters and digits of a call's id that Mistral's templates want."""

_INTRODUCTION = "You may call functions. These are there, one a line, with the JSON Schema of their parameters:\n"
_INSTRUCTION = (
    "\nTo call one, answer with its name and arguments as JSON in tags, and with nothing else:\n"
    f'{GENERIC.begin}\n{{"name": "NAME", "arguments": {{}}}}\n{GENERIC.end}\n'
    "What it gives comes back in <tool_response> tags."
)


def chat_in_form(
    form: CallForm, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
) -> tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]] | None]:
    """Messages and tools as a template of that form takes them; those of chats without tools and calls as they are.

    Raises RequestError as `checked_messages` and `checked_tools` do.
    """
    if form != GENERIC and not form.short_ids:
        return messages, tools
    if not tools and not any(map(_is_of_calls, messages)):
        return messages, tools
    messages, tools = checked_messages(messages), checked_tools(tools)
    if form != GENERIC:
        return [_with_short_ids(message) for message in messages], tools
    messages = _in_turns(_in_words(message) for message in messages)
    return (_with_tools(messages, tools) if tools else messages), None


def _is_of_calls(message: Any) -> bool:
    return isinstance(message, Mapping) and (bool(message.get("tool_calls")) or message.get("role") == "tool")


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_call_id" in message:
        message = message | {"tool_call_id": _short_id(message["tool_call_id"])}
    if "tool_calls" in message:
        calls = [call | {"id": _short_id(call.get("id"))} for call in message["tool_calls"]]
        message = message | {"tool_calls": calls}
    return message


def _short_id(call_id: Any) -> str:
    if isinstance(call_id, str) and len(call_id) == SHORT_ID and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(repr(call_id).encode()).hexdigest()[:SHORT_ID]


def _in_words(message: dict[str, Any]) -> dict[str, Any]:
    """Calls, and what they gave, as text."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text_of(message)}\n</tool_response>"}
    if "tool_calls" not in message:
        return message
    texts = [_text_of(message)] if message.get("content") else []
    texts += [f"{GENERIC.begin}\n{_call(call['function'])}\n{GENERIC.end}" for call in message["tool_calls"]]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return kept | {"content": "\n".join(texts)}


def _call(function: Mapping[str, Any]) -> str:
    called = {"name": function["name"], "arguments": function["arguments"]}
    return json.dumps(called, ensure_ascii=False)


def _in_turns(messages: Any) -> list[dict[str, Any]]:
    """What calls gave and what the user says next are one turn: many templates want turns to alternate."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        before = turns[-1] if turns else {}
        together = before.get("role") == message["role"] == "user"
        if together and str(before["content"]).endswith("</tool_response>"):
            turns[-1] = before | {"content": f"{before['content']}\n{_text_of(message)}"}
        else:
            turns.append(message)
    return turns


def _with_tools(messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = ("name", "description", "parameters")
    functions = [{key: tool["function"][key] for key in keys if key in tool["function"]} for tool in tools]
    lines = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    text = f"{_INTRODUCTION}{lines}{_INSTRUCTION}"
    if messages[0]["role"] in ("system", "developer"):
        return [messages[0] | {"content": f"{_text_of(messages[0])}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
