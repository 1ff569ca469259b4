"""Tools and tool_choice that cannot be used are refused in one line that begins with the key."""

import pytest

from mindspore_paged.errors import RequestError
from mindspore_paged.tools.functions import Function, ToolChoice, checked_choice, checked_functions

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def tool(name="f", **keys):
    return {"type": "function", "function": {"name": name, **keys}}


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_functions():
    tools = [tool("f", description="finds", parameters=OBJECT, strict=True), tool("g-1_X", parameters=None)]
    assert checked_functions(tools) == [Function("f", OBJECT, True), Function("g-1_X")]
    either = {"type": ["object", "null"]}
    assert checked_functions([tool(parameters=either)])[0].arguments_schema() == {"type": "object"}
    assert checked_functions(None) == checked_functions([]) == []


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([5], "tools[0] is 5; it must be a mapping"),
        ([{"type": "web_search"}], "tools[0].type is 'web_search'; it must be 'function'"),
        ([{"function": {"name": "f"}}], "tools[0].type is None; it must be 'function'"),
        ([{"type": "function"}], "tools[0].function is missing"),
        ([{"type": "function", "function": "f"}], "tools[0].function is 'f'; it must be a mapping"),
        ([tool(None)], "tools[0].function.name is missing"),
        ([tool(5)], "tools[0].function.name is 5; it must be 1 to 64"),
        ([tool("")], "tools[0].function.name is ''; it must be 1 to 64"),
        ([tool("x y")], "tools[0].function.name is 'x y'; it must be 1 to 64"),
        ([tool("f\n")], "tools[0].function.name is "),
        ([tool("é")], "tools[0].function.name is "),
        ([tool("x" * 65)], "tools[0].function.name is "),
        ([tool(), tool("g"), tool()], "tools[2].function.name is 'f', as another tool's"),
        ([tool(description=5)], "tools[0].function.description is 5; it must be text"),
        ([tool(strict="yes")], "tools[0].function.strict is 'yes'; it must be true or false"),
        ([tool(parameters=[])], "tools[0].function.parameters is []; it must be the JSON Schema of an object"),
        (
            [tool(parameters={"type": "string"})],
            "tools[0].function.parameters is of type 'string'; it must be the JSON",
        ),
        ([tool(str(number)) for number in range(129)], "tools is a list of 129; it must be one of at most 128"),
        ([tool(description="x" * 2**18)], "tools: they have more than 262144 characters as JSON"),
        ([tool(parameters=nested(80))], "tools[0]: it is nested more than 64 deep"),
        ([tool(parameters={"default": {1, 2}})], "tools[0]: it holds what JSON cannot say"),
    ],
)
def test_tools_that_cannot_be_used(tools, message):
    with pytest.raises(RequestError) as caught:
        checked_functions(tools)
    assert str(caught.value).startswith(message)


def test_choices():
    functions = [Function("f"), Function("g")]
    assert checked_choice(None, functions) == checked_choice("auto", []) == ToolChoice("auto")
    assert checked_choice("none", functions) == ToolChoice("none")
    assert checked_choice("required", functions) == ToolChoice("required")
    named = checked_choice({"type": "function", "function": {"name": "g"}}, functions)
    assert named == checked_choice({"type": "function", "name": "g"}, functions) == ToolChoice("required", ("g",))
    assert named.allowed(functions) == [Function("g")]
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}
    chosen = checked_choice({"type": "allowed_tools", "allowed_tools": allowed}, functions)
    assert chosen == ToolChoice("auto", ("f",))
    assert ToolChoice().allowed(functions) == functions


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("any", "tool_choice is 'any'; it must be none, auto, required, a function, or allowed_tools"),
        (5, "tool_choice is 5; it must be none"),
        ({"type": "function"}, "tool_choice is {'type': 'function'}; it must name a function"),
        ({"type": "function", "function": {"name": "h"}}, "tool_choice is 'h', which is none of tools; they are ['f']"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}},
            "tool_choice is {'mode': 'auto'}; allowed_tools",
        ),
        ({"type": "allowed_tools", "allowed_tools": 5}, "tool_choice is 5; allowed_tools must have tools"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [5]}, "tool_choice is 5; it must name a function"),
    ],
)
def test_choices_that_cannot_be_made(choice, message):
    with pytest.raises(RequestError) as caught:
        checked_choice(choice, [Function("f")])
    assert str(caught.value).startswith(message)


def test_a_choice_without_tools():
    with pytest.raises(RequestError, match="^tool_choice is given without tools"):
        checked_choice("required", [])


def test_schemas_of_arguments():
    assert Function("f").arguments_schema() == {"type": "object", "properties": {}, "additionalProperties": False}
    assert Function("f", {}).arguments_schema() == {"type": "object"}
    assert Function("f", OBJECT).arguments_schema() == OBJECT | {"additionalProperties": False}
    open_ended = OBJECT | {"additionalProperties": True}
    assert Function("f", open_ended).arguments_schema() == open_ended
    combined = {"$ref": "#/$defs/A", "$defs": {"A": OBJECT}}
    assert Function("f", combined).arguments_schema() == combined
