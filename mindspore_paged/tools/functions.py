"""The functions that a model may call, and which of them it must, as OpenAI's API writes them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mindspore_paged.errors import RequestError
from mindspore_paged.wording import shortened

MAX_FUNCTIONS = 128
"""OpenAI's bound."""

MAX_CHARACTERS = 2**18
"""Of all tools together, as JSON: grammars are made of them."""

MAX_DEPTH = 64
"""Values within each other in a tool; pages of schemas that people write have some 20."""

NAME = r"[a-zA-Z0-9_-]{1,64}"
"""What a function may be called: OpenAI's rule."""

_COMBINED = frozenset(("$ref", "allOf", "anyOf", "oneOf", "if", "not"))
_CLOSED = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class Function:
    """A function; parameters: JSON Schema of its arguments, None for one without; strict: no schema beyond it."""

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def arguments_schema(self) -> dict[str, Any]:
        """The JSON Schema of an object that calls are held to: what `parameters` leaves open at the top is closed."""
        if self.parameters is None:
            return dict(_CLOSED)
        schema = dict(self.parameters)
        if not _COMBINED & schema.keys():
            schema["type"] = "object"
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)
        return schema


@dataclass(frozen=True)
class ToolChoice:
    """mode: `none`, `auto` or `required`; names: the functions that may be called, all of them for None."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] | None = None

    def allowed(self, functions: Sequence[Function]) -> list[Function]:
        """Those of `functions` that may be called."""
        return [function for function in functions if self.names is None or function.name in self.names]


KEYS = ("name", "description", "parameters", "strict")
PLACES = {key: f"function.{key}" for key in KEYS}
"""Where a tool has each of a function's keys, in OpenAI's chats."""


def checked_functions(tools: Sequence[Any] | None, places: Mapping[str, str] = PLACES) -> list[Function]:
    """The functions of `tools`; raises RequestError that names the tool and what is wrong with it.

    tools: `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`, one or more.
    places: where a tool has these keys for whoever gave it, as messages say it.
    """
    tools = tools or []
    if len(tools) > MAX_FUNCTIONS:
        raise RequestError(f"tools is a list of {len(tools)}; it must be one of at most {MAX_FUNCTIONS}")
    functions: list[Function] = []
    num_characters = 0
    for index, tool in enumerate(tools):
        num_characters += _size(tool, f"tools[{index}]")
        if num_characters > MAX_CHARACTERS:
            raise RequestError(f"tools: they have more than {MAX_CHARACTERS} characters as JSON")
        functions.append(_function(tool, index, places))
        if functions[-1].name in (function.name for function in functions[:-1]):
            where = f"tools[{index}].{places['name']}"
            raise RequestError(f"{where} is {functions[-1].name!r}, as another tool's; names must differ")
    return functions


def checked_choice(choice: Any, functions: Sequence[Function]) -> ToolChoice:
    """What OpenAI's `tool_choice` says; raises RequestError for what it cannot be, or a name that no tool has."""
    if choice in (None, "auto", "none"):
        return ToolChoice(choice or "auto")
    if choice == "required":
        chosen = ToolChoice("required")
    elif isinstance(choice, Mapping) and choice.get("type") == "function":
        chosen = ToolChoice("required", (_name_in(choice),))
    elif isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        chosen = _allowed_tools(choice.get("allowed_tools", choice))
    else:
        raise RequestError(
            f"tool_choice is {shortened(choice)}; it must be none, auto, required, a function, or allowed_tools"
        )
    if not functions:
        raise RequestError("tool_choice is given without tools; give tools beside it")
    known = [function.name for function in functions]
    for name in chosen.names or ():
        if name not in known:
            raise RequestError(f"tool_choice is {shortened(name)}, which is none of tools; they are {shortened(known)}")
    return chosen


def _function(tool: Any, index: int, places: Mapping[str, str]) -> Function:
    where = {key: f"tools[{index}].{place}" for key, place in places.items()}
    if not isinstance(tool, Mapping):
        raise RequestError(f"tools[{index}] is {shortened(tool)}; it must be a mapping")
    if tool.get("type") != "function":
        raise RequestError(f"tools[{index}].type is {shortened(tool.get('type'))}; it must be 'function'")
    function = tool.get("function")
    if function is None:
        raise RequestError(f"tools[{index}].function is missing")
    if not isinstance(function, Mapping):
        raise RequestError(f"tools[{index}].function is {shortened(function)}; it must be a mapping")
    name, parameters, strict = function.get("name"), function.get("parameters"), function.get("strict")
    if name is None:
        raise RequestError(f"{where['name']} is missing")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise RequestError(f"{where['name']} is {shortened(name)}; it must be 1 to 64 letters, digits, - or _")
    if not isinstance(function.get("description"), str | None):
        raise RequestError(f"{where['description']} is {shortened(function['description'])}; it must be text")
    if not isinstance(strict, bool | None):
        raise RequestError(f"{where['strict']} is {shortened(strict)}; it must be true or false")
    if not isinstance(parameters, Mapping | None):
        raise RequestError(f"{where['parameters']} is {shortened(parameters)}; it must be the JSON Schema of an object")
    kind = (parameters or {}).get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise RequestError(
            f"{where['parameters']} is of type {shortened(kind)}; it must be the JSON Schema of an object"
        )
    return Function(name, parameters, bool(strict))


def _name_in(choice: Any) -> str:
    """A name as chats write it, or as responses do."""
    within = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = within.get("name") if isinstance(within, Mapping) else None
    if not isinstance(name, str):
        raise RequestError(f"tool_choice is {shortened(choice)}; it must name a function")
    return name


def _allowed_tools(allowed: Any) -> ToolChoice:
    tools = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if not isinstance(tools, list) or not tools or allowed.get("mode") not in ("auto", "required"):
        raise RequestError(
            f"tool_choice is {shortened(allowed)}; allowed_tools must have tools, and a mode: auto or required"
        )
    return ToolChoice(allowed["mode"], tuple(_name_in(tool) for tool in tools))


def _size(tool: Any, where: str) -> int:
    """Characters of a tool as JSON; raises RequestError where it is nested too deep."""
    level = [tool]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, Mapping | list | tuple)
            for child in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            break
    else:
        raise RequestError(f"{where}: it is nested more than {MAX_DEPTH} deep")
    try:
        return len(json.dumps(tool))
    except (TypeError, ValueError):
        raise RequestError(f"{where}: it holds what JSON cannot say") from None
