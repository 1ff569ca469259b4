"""OpenAI's client calls tools in a loop, whatever form the model's template speaks, streamed or not."""

import json

import openai
import pytest

from tests.cli_runs import CHAT_TEMPLATE
from tests.serving.running import HI, MODEL
from tests.tokenizer.family_templates import LLAMA31, QWEN3

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
TOOLS = [WEATHER, TIME]
ASKED = [{"role": "user", "content": "How is it in Köln?"}]
COLOGNE = {"city": "Köln"}


def hermes(name, arguments) -> str:
    called = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{called}\n</tool_call>"


def llama(name, arguments) -> str:
    return json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)


FAMILIES = {"qwen 3": (QWEN3, hermes), "llama 3.1": (LLAMA31, llama), "without tools": (CHAT_TEMPLATE, hermes)}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def asked(server, streamed=False, **keys):
    """The message, and how it finished, of a chat; streamed: put together from its deltas."""
    keys = {"model": MODEL, "messages": ASKED, "tools": TOOLS, "max_tokens": 500} | keys
    if not streamed:
        (choice,) = server.client.chat.completions.create(**keys).choices
        return choice.message.model_dump(exclude_unset=True), choice.finish_reason
    message, reason = {"content": ""}, None
    for chunk in server.client.chat.completions.create(**keys, stream=True):
        (choice,) = chunk.choices
        reason = choice.finish_reason or reason
        message["content"] += choice.delta.content or ""
        thoughts = getattr(choice.delta, "reasoning_content", None)
        if thoughts:
            message["reasoning_content"] = message.get("reasoning_content", "") + thoughts
        for call in choice.delta.tool_calls or []:
            calls = message.setdefault("tool_calls", [])
            if call.index == len(calls):  # a call begins: all but its arguments is there
                assert call.type == "function"
                calls.append(
                    {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": ""}}
                )
            else:
                assert (call.id, call.type, call.function.name) == (None, None, None)
                assert call.index == len(calls) - 1
            calls[-1]["function"]["arguments"] += call.function.arguments
    message["content"] = message["content"] or None
    return message | {"role": "assistant"}, reason


def calls_in(message) -> list[tuple]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]


@pytest.mark.parametrize("streamed", [False, True])
class TestLoop:
    def test_a_call_what_it_gives_and_the_answer(self, speaking, family, streamed):
        template, call = family
        with speaking(template, call("get_weather", COLOGNE), "It rains.") as server:
            message, reason = asked(server, streamed)
            assert (message["content"], reason) == (None, "tool_calls")
            assert calls_in(message) == [("get_weather", COLOGNE)]
            call_id = message["tool_calls"][0]["id"]
            assert call_id.startswith("call_")
            result = {"role": "tool", "tool_call_id": call_id, "content": "rain"}
            message, reason = asked(server, streamed, messages=[*ASKED, message, result])
            assert (message["content"], reason) == ("It rains.", "stop")
            assert "tool_calls" not in message

    def test_text_and_several_calls(self, speaking, streamed):
        answer = f"Let me see.\n{hermes('get_weather', COLOGNE)}\n{hermes('get_time', {})}"
        with speaking(QWEN3, answer) as server:
            message, reason = asked(server, streamed)
        assert (message["content"], reason) == ("Let me see.", "tool_calls")
        assert calls_in(message) == [("get_weather", COLOGNE), ("get_time", {})]
        assert len({call["id"] for call in message["tool_calls"]}) == 2

    def test_one_call_at_a_time(self, speaking, streamed):
        with speaking(QWEN3, f"{hermes('get_time', {})}\n{hermes('get_weather', COLOGNE)}") as server:
            message, _ = asked(server, streamed, parallel_tool_calls=False)
        assert calls_in(message) == [("get_time", {})]

    def test_what_is_no_call_is_text(self, speaking, family, streamed, unheld):
        """Where no grammar holds the answer, which a script does not follow."""
        template, call = family
        broken = call("get_weather", COLOGNE).replace('"}}', '"}')
        unknown = call("get_rich", {})
        with speaking(template, broken, unknown, "Hello") as server:
            for text in (broken, unknown, "Hello"):
                message, reason = asked(server, streamed)
                assert (message["content"], reason) == (text, "stop")
                assert "tool_calls" not in message

    def test_without_tools_nothing_is_looked_for(self, speaking, streamed):
        text = hermes("get_weather", COLOGNE)
        with speaking(QWEN3, text, text) as server:
            for keys in ({"tools": openai.omit}, {"tool_choice": "none"}):
                message, reason = asked(server, streamed, **keys)
                assert (message["content"], reason) == (text, "stop")

    def test_an_answer_that_is_cut_off(self, speaking, streamed):
        text = "Wait. " + hermes("get_weather", COLOGNE)
        with speaking(QWEN3, text) as server:
            message, reason = asked(server, streamed, max_tokens=40)
        assert reason == "length"
        assert message["content"] == text[:40]

    def test_thoughts_come_before_calls(self, speaking, streamed):
        text = f"<think>\nI call {hermes('get_time', {})}?\n</think>\n\n{hermes('get_weather', COLOGNE)}"
        with speaking(QWEN3, text) as server:
            message, reason = asked(server, streamed)
        assert (message["content"], reason) == (None, "tool_calls")
        assert message["reasoning_content"] == f"I call {hermes('get_time', {})}?"
        assert calls_in(message) == [("get_weather", COLOGNE)]


@pytest.mark.parametrize("streamed", [False, True])
class TestThoughts:
    def test_are_told_apart_and_counted(self, speaking, streamed):
        text = "<think>\nHm.\n</think>\n\nYes."
        with speaking(QWEN3, text) as server:
            message, reason = asked(server, streamed, tools=openai.omit)
        assert (message["reasoning_content"], message["content"], reason) == ("Hm.", "Yes.", "stop")

    def test_of_a_template_that_begins_them(self, speaking, streamed):
        template = CHAT_TEMPLATE + "<think>\n{# ends with </think> #}"
        with speaking(template, "Hm.\n</think>\nYes.", "Hm", "Hm.</think>" + hermes("get_time", {})) as server:
            message, _ = asked(server, streamed, tools=openai.omit)
            assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
            message, _ = asked(server, streamed, tools=openai.omit)
            assert (message["reasoning_content"], message["content"]) == ("Hm", None)
            message, _ = asked(server, streamed)
            assert (message["reasoning_content"], calls_in(message)) == ("Hm.", [("get_time", {})])

    def test_that_are_switched_off(self, speaking, streamed):
        with speaking(QWEN3, "Yes.") as server:
            off = {"chat_template_kwargs": {"enable_thinking": False}}
            message, _ = asked(server, streamed, tools=openai.omit, extra_body=off)
        assert message["content"] == "Yes."
        assert "reasoning_content" not in message


def test_tokens_are_counted_whatever_they_say(speaking):
    text = f"<think>Hm</think>{hermes('get_time', {})}"
    with speaking(QWEN3, text, text) as server:
        whole = server.client.chat.completions.create(model=MODEL, messages=ASKED, tools=TOOLS, max_tokens=500)
        chunks = server.client.chat.completions.create(
            model=MODEL, messages=ASKED, tools=TOOLS, max_tokens=500, stream=True,
            stream_options={"include_usage": True}, logprobs=True, extra_body={"return_token_ids": True},
        )  # fmt: skip
        *chunks, last = list(chunks)
    assert whole.usage.completion_tokens == last.usage.completion_tokens == len(text) + 1
    choices = [chunk.choices[0] for chunk in chunks]
    assert sum(len(choice.logprobs.content) for choice in choices if choice.logprobs) == len(text) + 1
    assert sum(len(getattr(choice, "token_ids", None) or []) for choice in choices) == len(text) + 1


def test_each_of_n_answers_has_calls_of_its_own(speaking):
    with speaking(QWEN3, hermes("get_time", {}), "No.") as server:
        answer = server.client.chat.completions.create(model=MODEL, messages=ASKED, tools=TOOLS, max_tokens=500, n=2)
    reasons = {choice.finish_reason: choice.message for choice in answer.choices}
    assert reasons["stop"].content == "No."
    assert [call.function.name for call in reasons["tool_calls"].tool_calls] == ["get_time"]


def test_the_clients_own_helper_for_streams_understands_calls(speaking):
    with speaking(QWEN3, f"So.\n{hermes('get_weather', COLOGNE)}") as server:
        stream = server.client.chat.completions.stream(model=MODEL, messages=ASKED, tools=[WEATHER], max_tokens=500)
        with stream as events:
            message = events.get_final_completion().choices[0].message
    assert message.content == "So."
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == COLOGNE


def test_what_the_template_has_no_place_for_is_said_in_words(long_server):
    call = {"id": "x", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be short."},
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "12:00"},
        {"role": "user", "content": "And?"},
    ]
    body = {"model": MODEL, "messages": messages, "tools": TOOLS}
    status, answer = long_server.post("/tokenize", **body)
    assert status == 200
    prompt = long_server.llm.tokenizer.decode(answer["tokens"])
    assert prompt.startswith("Be short.\n\nYou may call functions.")
    assert '\n{"name": "get_weather", "description": "The weather in a city", "parameters": ' in prompt
    ending = (
        'Köln?|<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>|'
        "<tool_response>\n12:00\n</tool_response>\nAnd?|"
    )
    assert prompt.endswith(ending)
    used = long_server.client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, max_tokens=1).usage
    assert used.prompt_tokens == len(answer["tokens"])


def tool(**function):
    return {"type": "function", "function": function}


@pytest.mark.parametrize(
    ("keys", "param", "message"),
    [
        ({"tools": [tool(name="f"), tool(name="f")]}, "tools[1].function.name", "as another tool's"),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name", "is 'a b'; it must be 1 to 64 letters"),
        ({"tools": [tool(name="f", parameters=[])]}, "tools[0].function.parameters", "JSON Schema of an object"),
        ({"tools": [tool(name="f", strict=True, parameters={"properties": {"a": {"type": "x"}}})]}, "tools",
         "Invalid type: x"),
        ({"tools": [tool(name=f"f{number}") for number in range(129)]}, "tools", "at most 128"),
        ({"tools": [tool(name="f", description="x" * 300_000)]}, "tools", "262144 characters"),
        ({"tool_choice": "any"}, "tool_choice", "tool_choice is 'any'; it must be none, auto, required"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "without tools"),
        ({"tool_choice": tool(name="g")}, "tool_choice", "tool_choice is 'g', which is none of tools"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "it must be true or false"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_cannot_be_used(long_server, keys, param, message, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        long_server.client.chat.completions.create(
            **({"model": MODEL, "messages": HI, "tools": TOOLS, "stream": stream} | keys)
        )
    assert caught.value.param == param
    assert message in caught.value.body["message"]
