"""The official client of OpenAI's takes /v1/responses for theirs."""

import json

import openai
import pytest

from mindspore_paged import SamplingParams
from tests.serving.running import HI, MODEL
from tests.tokenizer.family_templates import QWEN3


def expected(server, messages, tokens=8, **options):
    return server.llm.chat(messages, SamplingParams(max_tokens=tokens), **options)


def test_a_whole_answer(server):
    output = expected(server, HI)
    response = server.client.responses.create(model=MODEL, input="Hi", max_output_tokens=8)
    assert response.output_text == output.outputs[0].text
    assert (response.object, response.status) == ("response", "incomplete")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (4, 8, 12)
    assert (response.store, response.error, response.instructions) == (False, None, None)


def test_a_stream_adds_up_to_the_whole(server):
    common = {"model": MODEL, "input": "Hi", "max_output_tokens": 8}
    whole = server.client.responses.create(**common)
    events = list(server.client.responses.create(**common, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    assert [event.type for event in events if event not in deltas] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage


def test_the_clients_own_helper_for_streams_understands_them(server):
    with server.client.responses.stream(model=MODEL, input="Hi", max_output_tokens=8) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(texts) == expected(server, HI).outputs[0].text


def test_items_are_the_chats_of_completions(long_server, unheld):
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    output = expected(
        long_server,
        [
            {"role": "system", "content": "Be short"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call00001", "content": "2"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": "And?"},
        ],
        tools=[{"type": "function", "function": function}],
    )
    response = long_server.client.responses.create(
        model=MODEL,
        max_output_tokens=8,
        instructions="Be short",
        tools=[{"type": "function", **function}],
        input=[
            {"role": "user", "content": "Hi"},
            {"type": "function_call", "call_id": "call00001", "name": "f", "arguments": '{"a": 1}'},
            {"type": "function_call_output", "call_id": "call00001", "output": "2"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Two"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
        ],
    )
    assert response.output_text == output.outputs[0].text
    assert response.usage.input_tokens == len(output.prompt_token_ids)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input": []}, "input is []; it must be text, or a list of items"),
        ({"input": [{"role": "user"}]}, "input[0].content is None; it must be text"),
        ({"input": [{"role": "imp", "content": "x"}]}, "input[0].role is 'imp'; it must be one of system, "),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0] is of type 'item_reference'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "the model reads text alone"),
        ({"input": [{"type": "function_call", "call_id": "x"}]}, "function.name"),
        ({"previous_response_id": "resp_1"}, "previous_response_id: nothing is stored here"),
        ({"background": True}, "background is not supported"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type is 'yaml'; it must be one of"),
        ({"tools": [{"type": "web_search"}]}, "a tool must be a function with a name"),
        ({"tool_choice": "required"}, "tool_choice is given without tools"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name is 'a b'; it must be 1 to 64 letters"),
        ({"max_output_tokens": 0}, "max_tokens is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_done(server, keys, message):
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.responses.create(**{"model": MODEL, "input": "Hi"} | keys)
    assert message in caught.value.body["message"]


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
ANSWER = f"<think>\nRain?\n</think>\n\nLet me see.\n{CALL}\n{CALL}"


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_in_a_loop(speaking, streamed):
    with speaking(QWEN3, ANSWER, "It rains.") as server:
        common = {"model": MODEL, "max_output_tokens": 500, "tools": [WEATHER]}
        items = [{"role": "user", "content": "How is it in Köln?"}]

        def asked():
            if not streamed:
                return server.client.responses.create(input=items, **common)
            with server.client.responses.stream(input=items, **common) as stream:
                events = list(stream)
                assert [event.sequence_number for event in events] == list(range(len(events)))
                return stream.get_final_response()

        response = asked()
        assert [item.type for item in response.output] == ["reasoning", "message", *["function_call"] * 2]
        thoughts, message, first, second = response.output
        assert (thoughts.content[0].text, message.content[0].text) == ("Rain?", "Let me see.")
        assert (first.name, json.loads(first.arguments)) == ("get_weather", {"city": "Köln"})
        assert first.call_id.startswith("call_")
        assert first.call_id != second.call_id
        assert response.usage.output_tokens == len(ANSWER.encode()) + 1
        items += [item.model_dump(exclude_none=True) for item in response.output]
        items += [
            {"type": "function_call_output", "call_id": item.call_id, "output": "rain"} for item in (first, second)
        ]
        response = asked()
    assert (response.output_text, response.status) == ("It rains.", "completed")


def test_events_of_calls_are_those_of_openai(speaking):
    with speaking(QWEN3, f"So.\n{CALL}") as server:
        events = list(
            server.client.responses.create(
                model=MODEL, input="Hi", tools=[WEATHER], tool_choice="auto", max_output_tokens=500, stream=True
            )
        )
    kinds = [event.type.removeprefix("response.") for event in events]
    assert [kind for kind in kinds if not kind.endswith(".delta")] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert (done.name, json.loads(done.arguments), done.output_index) == ("get_weather", {"city": "Köln"}, 1)


def test_calls_of_one_answer_are_one_message(long_server):
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in ("c1", "c2")]
    tools = [{"type": "function", "function": {"name": "f"}}]
    output = expected(
        long_server,
        [
            *HI,
            {"role": "assistant", "content": "So", "tool_calls": calls},
            *({"role": "tool", "tool_call_id": name, "content": "1"} for name in ("c1", "c2")),
        ],
        tools=tools,
    )
    response = long_server.client.responses.create(
        model=MODEL,
        max_output_tokens=8,
        tools=[{"type": "function", "name": "f"}],
        input=[
            *HI,
            {"type": "message", "role": "assistant", "content": "So"},
            *({"type": "function_call", "call_id": name, **function} for name in ("c1", "c2")),
            *({"type": "function_call_output", "call_id": name, "output": "1"} for name in ("c1", "c2")),
        ],
    )
    assert response.usage.input_tokens == len(output.prompt_token_ids)
