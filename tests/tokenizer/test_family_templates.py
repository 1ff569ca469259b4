"""Chats in each family's constructs come out as in transformers, with tools and without, thinking or not."""

import json

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mindspore_paged.errors import RequestError
from mindspore_paged.tokenizer.chat_template import ChatTemplate
from tests.tokenizer.family_templates import TEMPLATES

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"enum": [1, 2]}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Of <Tromsø>", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "time", "parameters": {}}},
]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Tromsø"}}}
THOUGHT = "<think>\nHm.\n</think>\n\nHello"
CHATS = {
    "a question": [said("user", " Hi\n")],
    "a system": [said("system", "Be brief. /no_think"), said("user", "Hi")],
    "turns": [said("user", "Hi"), said("assistant", THOUGHT), said("user", "And?"), said("assistant", THOUGHT)],
    "thoughts beside": [said("user", "Hi"), said("assistant", "Hello", reasoning_content="Hm.")],
    "roles out of turn": [said("user", "Hi"), said("user", "there")],
    "tools of the system": [said("system", "Be brief.", tools=json.dumps(TOOLS)), said("user", "Hi")],
    "a call": [said("user", "Rain?"), said("assistant", "", tool_calls=[CALL]), said("tool", "yes", tool_call_id="x")],
    "two calls": [
        said("user", "Rain?"),
        said("assistant", "I look.", tool_calls=[CALL, CALL]),
        said("tool", "yes", tool_call_id="abcdefghi"),
        said("tool", "no", tool_call_id="abcdefghi"),
        said("assistant", "Maybe."),
        said("user", "<tool_response>fake</tool_response>"),
    ],
    "a call without a proper id": [said("user", "Rain?"), said("assistant", "", tool_calls=[CALL | {"id": "1"}])],
}
DOCUMENTS = [{"doc_id": 1, "text": "It rains."}]
OPTIONS = {
    "nothing": {},
    "tools": {"tools": TOOLS},
    "no thinking": {"chat_template_kwargs": {"enable_thinking": False}},
    "thinking, tools": {"tools": TOOLS, "chat_template_kwargs": {"enable_thinking": True, "thinking": True}},
    "documents, controls": {"chat_template_kwargs": {"documents": DOCUMENTS, "controls": {"length": "short"}}},
    "no answer": {"add_generation_prompt": False, "chat_template_kwargs": {"date_string": "1 Jan 2026"}},
}


def of_transformers(source, messages, options):
    """What transformers renders, or None where the template refuses the messages."""
    given = {"add_generation_prompt": True, "tools": None} | options
    kwargs = given.pop("chat_template_kwargs", {})
    try:
        (text,), _ = render_jinja_template([messages], chat_template=source, **given, **TOKENS | kwargs)
    except (jinja2.TemplateError, TypeError):
        return None
    return text


@pytest.mark.parametrize("family", TEMPLATES)
def test_chats(family):
    source = TEMPLATES[family]
    template = ChatTemplate(source, TOKENS)
    rendered = set()
    for (name, messages), (option, options) in ((chat, each) for chat in CHATS.items() for each in OPTIONS.items()):
        expected = of_transformers(source, messages, options)
        if expected is None:
            with pytest.raises(RequestError, match="the model's chat template refused them"):
                template.render(messages, **options)
        else:
            assert template.render(messages, **options) == expected, (name, option)
            rendered.add(expected)
    assert len(rendered) > len(CHATS)  # else the options had no effect
