"""Chats with tools become what the templates of each form take."""

import pytest

from mindspore_paged.errors import RequestError
from mindspore_paged.tokenizer.chat_template import ChatTemplate
from mindspore_paged.tools.chats import chat_in_form
from mindspore_paged.tools.forms import FORMS, GENERIC, form_of, thought_form_of
from tests.tokenizer.family_templates import TEMPLATES

HI = {"role": "user", "content": "Hi"}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "ü", "parameters": {}, "strict": True}}]
BY_NAME = {form.name: form for form in FORMS}


def a_call(call_id="call_0123456789abcdef01234567", content=None):
    function = {"name": "f", "arguments": '{"a": "ü"}'}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def a_result(call_id="call_0123456789abcdef01234567", content="2"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize(
    ("family", "form", "thinks"),
    [
        ("qwen3", "hermes", True),
        ("mistral", "mistral", False),
        ("llama 3.1", "llama 3", False),
        ("gemma", "generic", False),
        ("granite", "generic", False),
        ("phi 4 mini", "generic", False),
        ("smollm3", "generic", True),
    ],
)
def test_a_template_shows_its_form(family, form, thinks):
    assert form_of(TEMPLATES[family]).name == form
    assert (thought_form_of(TEMPLATES[family]) is not None) == thinks


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '[TOOL_CALLS]' + call.name + '[ARGS]' }}", "mistral, by name"),
        ("{{ '<tool_call>\\n<function=' + name }}", "generic"),  # another language of calls
        ("{{ 'write <|tool_call|> before calls' }}", "granite"),
        ("", "generic"),
    ],
)
def test_forms_of_other_templates(template, form):
    assert form_of(template).name == form


@pytest.mark.parametrize("form", [*FORMS, GENERIC], ids=lambda form: form.name)
def test_a_chat_without_tools_is_left_alone(form):
    messages = [HI, {"role": "assistant", "content": "So"}, {"role": "imp"}]
    assert chat_in_form(form, messages, None) == (messages, None)


@pytest.mark.parametrize("name", ["hermes", "llama 3", "granite"])
def test_a_template_that_knows_tools_gets_them(name):
    messages = [HI, a_call(), a_result()]
    assert chat_in_form(BY_NAME[name], messages, TOOLS) == (messages, TOOLS)


def test_mistrals_ids_are_short_and_belong_together():
    messages, tools = chat_in_form(BY_NAME["mistral"], [HI, a_call(), a_result(), a_call("abc123DEF")], TOOLS)
    first, second = (messages[place]["tool_calls"][0]["id"] for place in (1, 3))
    assert messages[2]["tool_call_id"] == first
    assert len(first) == 9
    assert first.isalnum()
    assert second == "abc123DEF"
    assert tools == TOOLS
    template = ChatTemplate(TEMPLATES["mistral"], {"bos_token": "<s>", "eos_token": "</s>"})
    text = template.render(list(messages[:3]), tools=tools)
    assert f'"id": "{first}"' in text
    assert f'"call_id": "{first}"' in text


def test_without_a_form_tools_and_calls_are_put_in_words():
    system = {"role": "system", "content": [{"type": "text", "text": "Be short."}]}
    chat = [system, HI, a_call(content="Wait."), a_result(), a_result(content="3"), HI]
    messages, tools = chat_in_form(GENERIC, chat, TOOLS)
    assert tools is None
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Be short.\n\nYou may call functions.")
    assert '\n{"name": "f", "description": "ü", "parameters": {}}\n' in messages[0]["content"]
    assert messages[2]["content"] == 'Wait.\n<tool_call>\n{"name": "f", "arguments": {"a": "ü"}}\n</tool_call>'
    assert messages[3]["content"] == ("<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response>\nHi")
    assert "tool_calls" not in messages[2]
    alone, _ = chat_in_form(GENERIC, [HI], TOOLS)
    assert [message["role"] for message in alone] == ["system", "user"]


@pytest.mark.parametrize("family", ["gemma", "granite", "phi 4 mini"])
def test_templates_without_a_form_take_the_words(family):
    template = ChatTemplate(TEMPLATES[family], {"bos_token": "<s>", "eos_token": "</s>"})
    messages, tools = chat_in_form(GENERIC, [HI, a_call(), a_result(), a_call(), a_result(), HI], TOOLS)
    text = template.render(list(messages), tools=tools)
    assert text.count("<tool_call>\n") == 3
    assert text.count("<tool_response>\n2\n</tool_response>") == 2


def test_messages_that_are_wrong_are_said_to_be():
    with pytest.raises(RequestError, match=r"^messages\[1\]\.tool_calls\[0\]\.function is missing"):
        chat_in_form(GENERIC, [HI, {"role": "assistant", "tool_calls": [{}]}], None)
    with pytest.raises(RequestError, match=r"^tools\[0\] is 5"):
        chat_in_form(GENERIC, [HI], [5])
