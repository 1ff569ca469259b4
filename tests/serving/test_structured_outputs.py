"""response_format and vLLM's keys over HTTP, by OpenAI's client."""

import json
import re

import openai
import pytest

from tests.serving.running import HI, MODEL

PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
    "required": ["age", "ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}


def chat(server, **keys):
    return server.client.chat.completions.create(model=MODEL, messages=HI, max_tokens=60, **keys).choices[0]


def is_person(text):
    value = json.loads(text)
    return sorted(value) == ["age", "ok"] and 0 <= value["age"] <= 99 and isinstance(value["ok"], bool)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_json_schema(server, temperature):
    choice = chat(server, response_format=FORMAT, temperature=temperature, seed=1)
    assert is_person(choice.message.content)
    assert choice.finish_reason == "stop"


def test_a_stream_adds_up_to_the_whole(server):
    whole = chat(server, response_format=FORMAT).message.content
    stream = server.client.chat.completions.create(
        model=MODEL, messages=HI, max_tokens=60, response_format=FORMAT, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole


@pytest.mark.parametrize(
    ("keys", "pattern"),
    [
        ({"structured_outputs": {"regex": "[ab]{2}c"}}, "[ab]{2}c"),
        ({"guided_regex": "[ab]{2}c"}, "[ab]{2}c"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'start: "x" "y"'}, "xy"),
        ({"guided_json": {"const": 5}}, "5"),
    ],
)
def test_keys_of_vllm(server, keys, pattern):
    assert re.fullmatch(pattern, chat(server, extra_body=keys).message.content)
    completion = server.client.completions.create(model=MODEL, prompt="Hi", max_tokens=60, extra_body=keys)
    assert re.fullmatch(pattern, completion.choices[0].text)


def test_responses(server):
    form = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    answer = server.client.responses.create(model=MODEL, input="Hi", max_output_tokens=60, text={"format": form})
    assert is_person(answer.output_text)


def test_what_a_grammar_cannot_follow_is_refused_unless_it_may_be_left_out(server):
    schema = PERSON | {"minProperties": 2, "dependentRequired": {"age": ["ok"]}}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="Unimplemented keys") as refused:
        chat(server, response_format=form)
    assert refused.value.param == "structured_outputs.json"
    form["json_schema"]["strict"] = False
    assert is_person(chat(server, response_format=form).message.content)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "xml"}, "response_format.type is 'xml'; it must be one of text, json_object"),
        ({"type": "json_schema"}, "response_format.schema is None; it must be a JSON Schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name is None"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}, "structured_outputs.json"),
    ],
)
def test_formats_that_are_none(server, form, message):
    with pytest.raises(openai.BadRequestError, match=re.escape(message)):
        chat(server, response_format=form)


def test_two_forms_contradict_each_other(server):
    with pytest.raises(openai.BadRequestError, match="structured_outputs and response_format hold the answer"):
        chat(server, response_format=FORMAT, extra_body={"structured_outputs": {"regex": "a"}})


def test_text_is_no_form(server):
    assert chat(server, response_format={"type": "text"}).message.content == chat(server).message.content
