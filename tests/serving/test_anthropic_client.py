"""The official client of Anthropic's takes /v1/messages for theirs."""

import anthropic
import pytest

from mindspore_paged import SamplingParams
from tests.serving.running import HI, MODEL
from tests.tokenizer.family_templates import QWEN3


def client_of(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def client(shared_server):
    return client_of(shared_server)


def expected(server, messages, tokens=8, **options):
    return server.llm.chat(messages, SamplingParams(max_tokens=tokens), **options)


def test_a_whole_answer(server, client):
    output = expected(server, HI)
    message = client.messages.create(model=MODEL, max_tokens=8, messages=HI)
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert [(block.type, block.text) for block in message.content] == [("text", output.outputs[0].text)]
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (4, 8)


def test_what_anthropics_schema_requires_is_there(server):
    status, message = server.post("/v1/messages", model=MODEL, max_tokens=1, messages=HI)
    assert status == 200
    assert set(message) == {
        *("id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "stop_details", "usage"),
        "container",
    }
    assert set(message["usage"]) == {
        *("cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens", "inference_geo"),
        *("input_tokens", "output_tokens", "output_tokens_details", "server_tool_use", "service_tier"),
    }


def test_a_stream_adds_up_to_the_whole(server, client):
    common = {"model": MODEL, "max_tokens": 8, "messages": HI}
    whole = client.messages.create(**common)
    with client.messages.stream(**common) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert final.content[0].text == text
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 8)
    kinds = [event.type for event in client.messages.create(**common, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_stop_sequence_is_told(server, client):
    text = expected(server, HI, 12).outputs[0].text
    stop = text[3:5]
    message = client.messages.create(model=MODEL, max_tokens=12, messages=HI, stop_sequences=["never", stop])
    assert message.content[0].text == text[: text.index(stop)]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)


def test_systems_tools_and_what_they_gave_are_the_chats_of_openai(long_server, unheld):
    function = {"name": "f", "description": "finds", "parameters": {"type": "object"}}
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    as_openai = [
        {"role": "system", "content": "Be\nshort"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Wait", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": "2"},
        {"role": "user", "content": "And?"},
    ]
    output = expected(long_server, as_openai, tools=[{"type": "function", "function": function}])
    message = client_of(long_server).messages.create(
        model=MODEL,
        max_tokens=8,
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "short"}],
        tools=[{"name": "f", "description": "finds", "input_schema": {"type": "object"}}],
        messages=[
            *HI,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Wait"},
                    {"type": "tool_use", "id": "call00001", "name": "f", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call00001", "content": [{"type": "text", "text": "2"}]},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    )
    assert message.content[0].text == output.outputs[0].text
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == len(output.prompt_token_ids)


def test_an_answer_that_was_begun_is_gone_on_with(server, client):
    messages = [*HI, {"role": "assistant", "content": "So"}]
    output = expected(server, messages, continue_final_message=True)
    assert (
        client.messages.create(model=MODEL, max_tokens=8, messages=messages).content[0].text == output.outputs[0].text
    )


def test_tokens_are_counted_without_an_answer(server, client):
    steps = server.call(lambda engine: engine.metrics.num_steps)
    assert client.messages.count_tokens(model=MODEL, messages=HI).input_tokens == 4
    assert server.call(lambda engine: engine.metrics.num_steps) == steps


def test_what_the_cache_held_is_counted_apart(server, client):
    text = "".join(chr(ord("a") + place % 23) for place in range(60))
    common = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
    first, second = [client.messages.create(**common).usage for _ in range(2)]
    assert (first.cache_read_input_tokens, second.cache_read_input_tokens) == (0, 48)
    assert second.input_tokens == first.input_tokens - 48


@pytest.mark.parametrize(
    ("keys", "kind", "message"),
    [
        ({"model": "claude"}, anthropic.NotFoundError, "the model 'claude' is not served"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens is 0; it must be at least 1"),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError, "temperature is -1.0; it must be 0 or more"),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "tool_choice is given without tools"),
        ({"tool_choice": {"type": "all"}}, anthropic.BadRequestError, "tool_choice is of type 'all'; it must be one"),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "string"}}]},
            anthropic.BadRequestError,
            r"tools\[0\].input_schema is of type 'string'; it must be the JSON Schema of an object",
        ),
        ({"thinking": {"type": "deep"}}, anthropic.BadRequestError, "thinking is of type 'deep'; it must be one of"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, anthropic.BadRequestError, "thinking must be of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
            anthropic.BadRequestError,
            r"messages\[0\].content\[0\] is of type 'image'; the model reads text alone",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, anthropic.BadRequestError, "it must be text, or a list of"),
        ({"messages": [{"role": "system", "content": "x"}]}, anthropic.BadRequestError, "must be 'user' or 'assist"),
    ],
)
def test_errors_have_anthropics_form(server, client, keys, kind, message):
    for stream in (False, True):
        with pytest.raises(kind, match=message) as caught:
            client.messages.create(**{"model": MODEL, "max_tokens": 4, "messages": HI, "stream": stream} | keys)
        assert list(caught.value.body) == ["type", "error"]
        assert list(caught.value.body["error"]) == ["type", "message"]


WEATHER = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ANSWER = (
    "<think>\nRain?\n</think>\n\nLet me see.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_in_a_loop(speaking, streamed):
    with speaking(QWEN3, ANSWER, "It rains.") as server:
        client = client_of(server)
        messages = [{"role": "user", "content": "How is it in Köln?"}]
        common = {"model": MODEL, "max_tokens": 500, "tools": [WEATHER], "thinking": {"type": "adaptive"}}

        def asked():
            if not streamed:
                return client.messages.create(messages=messages, **common)
            with client.messages.stream(messages=messages, **common) as stream:
                return stream.get_final_message()

        message = asked()
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
        thoughts, text, call = message.content
        assert (thoughts.thinking, text.text) == ("Rain?", "Let me see.")
        assert (call.name, call.input, message.stop_reason) == ("get_weather", {"city": "Köln"}, "tool_use")
        assert call.id.startswith("toolu_")
        assert message.usage.output_tokens == len(ANSWER.encode()) + 1
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        messages += [
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
            {"role": "user", "content": [result]},
        ]
        message = asked()
    assert [block.text for block in message.content] == ["It rains."]
    assert message.stop_reason == "end_turn"


def test_a_call_that_is_cut_off_is_text(speaking, unheld):
    with speaking(QWEN3, ANSWER) as server:
        message = client_of(server).messages.create(
            model=MODEL, max_tokens=100, messages=HI, tools=[WEATHER], tool_choice={"type": "auto"}
        )
    assert message.stop_reason == "max_tokens"
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[1].text == ANSWER[:99].partition("</think>\n\n")[2]  # ö is two tokens


def test_a_call_that_is_cut_off_has_no_input_where_a_grammar_holds_it(speaking):
    """It is known to be a call from its name on."""
    with speaking(QWEN3, ANSWER) as server:
        message = client_of(server).messages.create(
            model=MODEL, max_tokens=100, messages=HI, tools=[WEATHER], tool_choice={"type": "auto"}
        )
    assert message.stop_reason == "max_tokens"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert (message.content[2].name, message.content[2].input) == ("get_weather", {})


@pytest.mark.parametrize(("kind", "thinks"), [("enabled", True), ("disabled", False)])
def test_thoughts_may_be_switched_off(speaking, kind, thinks):
    thinking = {"type": kind} | ({"budget_tokens": 1024} if thinks else {})
    with speaking(QWEN3, "Yes.") as server:
        client = client_of(server)
        message = client.messages.create(model=MODEL, max_tokens=2000, messages=HI, thinking=thinking)
        plain = client.messages.count_tokens(model=MODEL, messages=HI).input_tokens
    assert message.content[0].text == "Yes."
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens == plain + (0 if thinks else 19)
