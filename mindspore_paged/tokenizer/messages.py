"""Chat messages and tools as OpenAI's API writes them, checked before a template sees them."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from mindspore_paged.errors import RequestError
from mindspore_paged.wording import shortened

MAX_MESSAGES = 100_000

_OPEN = ConfigDict(strict=True, extra="allow")


def _mapping(arguments: Any) -> Any:
    """The arguments of a call: OpenAI sends them as JSON text, Hugging Face's templates want what the text says."""
    if isinstance(arguments, str):
        try:
            return json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise ValueError("a mapping, or JSON text of one") from None
    return {} if arguments is None else arguments


class _Function(BaseModel):
    model_config = _OPEN
    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {}


class _ToolCall(BaseModel):
    model_config = _OPEN
    type: Literal["function"] = "function"
    function: _Function


class _TextPart(BaseModel):
    model_config = _OPEN
    type: Literal["text"]
    text: str


def _kind_of_content(content: Any) -> str | None:
    return {str: "text", list: "parts", type(None): "null"}.get(type(content))


_Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[_TextPart], Tag("parts")] | Annotated[None, Tag("null")],
    Discriminator(
        _kind_of_content, custom_error_type="content", custom_error_message="text, a list of text parts, or null"
    ),
]


class _Message(BaseModel):
    model_config = _OPEN
    role: Annotated[str, Field(min_length=1)]
    content: _Content = None
    tool_calls: list[_ToolCall] | None = None


class _ToolFunction(BaseModel):
    model_config = _OPEN
    name: str


class _Tool(BaseModel):
    model_config = _OPEN
    type: Literal["function"]
    function: _ToolFunction


_MESSAGES = TypeAdapter(Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)])
_TOOLS = TypeAdapter(list[_Tool])
_ALLOWED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "list_type": "a list",
    "too_short": "a list of at least one message",
    "too_long": f"a list of at most {MAX_MESSAGES} messages",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def checked_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """New messages for a template: all that they say, keys that are null left out, arguments of calls as mappings.

    Raises RequestError that names what is wrong: content that is neither text nor text parts, a null where there is no
    assistant, a call without a name.
    """
    _check(_MESSAGES, "messages", messages)
    for index, message in enumerate(messages):
        if message.get("content") is None and message["role"] != "assistant":
            raise RequestError(f"messages[{index}].content is missing; it must be text, or a list of text parts")
        if message.get("content", ...) is ... and not message.get("tool_calls"):
            raise RequestError(f"messages[{index}].content is missing; it must be text, or tool_calls be there")
    return [_plain(message) for message in messages]


def checked_tools(tools: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The tools, or None for none; raises RequestError for what is no list of functions."""
    if tools is not None:
        _check(_TOOLS, "tools", tools)
    return list(tools) if tools else None


def _check(kind: TypeAdapter, name: str, value: Any) -> None:
    try:
        kind.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        # The kind of content is part of the place for pydantic.
        places = [part for before, part in pairwise(("", *problem["loc"])) if before != "content"]
        where = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in places)
        if problem["type"] == "missing":
            raise RequestError(f"{where} is missing") from None
        if problem["type"] == "value_error":
            allowed = str(problem["ctx"]["error"])
        else:
            allowed = _ALLOWED.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
        raise RequestError(f"{where} is {shortened(problem['input'])}; it must be {allowed}") from None


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if value is not None or key == "content"}
    calls = plain.pop("tool_calls", None)
    if calls:
        plain["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _mapping(call["function"].get("arguments"))}}
            for call in calls
        ]
    return plain
