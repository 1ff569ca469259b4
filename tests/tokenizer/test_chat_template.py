"""Chats through templates, held against transformers where it renders them, and what is refused, in one line."""

import json
import logging

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mindspore_paged.errors import CheckpointError, RequestError
from mindspore_paged.tokenizer import bounded_rendering
from mindspore_paged.tokenizer.chat_template import MAX_SOURCE, ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen 2.5: tools before all, calls as JSON, answers of tools as the user's.
WITH_TOOLS = """
{%- if tools %}
    {{- '<|im_start|>system\\nTools:' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{ tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{ '\\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""
# As DeepSeek V3: calls only where the content is null, their arguments as text.
TEXT_ARGUMENTS = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' and message['content'] is none %}
        {%- for call in message['tool_calls'] %}
            {{- '<call>' + call['function']['name'] + '\\n```json\\n' + call['function']['arguments'] + '\\n```' }}
        {%- endfor %}
    {%- else %}
        {{- '<' + message['role'] + '>' + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}
"""
# As SmolVLM: nothing but parts.
PARTS = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %} {{ line['text'] }}{% endif %}{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
# As Llama 3.2 Vision: either form.
BOTH = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{% if message.content is string %}"
    "{{ message.content | trim }}{% else %}{% for part in message.content or [] %}{{ part.text }}{% endfor %}"
    "{% endif %}{% for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "<é>": 1}}}]
ARGUMENTS = {"city": "Tromsø", "days": 2}


def user(content):
    return {"role": "user", "content": content}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def calls(arguments, content=None):
    function = {"name": "weather", "arguments": arguments}
    return [
        user("Rain?"),
        {
            "role": "assistant",
            "content": content,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]


PLAIN = [{"role": "system", "content": "Be <brief>."}, user(" Hi "), {"role": "assistant", "content": "Hello"}]


def as_transformers(source, messages, **options):
    (text,), _ = render_jinja_template([messages], chat_template=source, **TOKENS, **options)
    return text


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        *[(source, PLAIN) for source in (CHATML, WITH_TOOLS, TEXT_ARGUMENTS, BOTH)],
        (PARTS, [message | {"content": parts(message["content"])} for message in PLAIN]),
        (PARTS, [user(parts("a", "b"))]),
        (BOTH, [user(parts("a", "b")), {"role": "assistant", "content": None}, user("c")]),
        (WITH_TOOLS, calls(ARGUMENTS)),
        (WITH_TOOLS, calls(ARGUMENTS, content="Let me see.")),
        (BOTH, calls(ARGUMENTS)),
        (TEXT_ARGUMENTS, calls(json.dumps(ARGUMENTS, ensure_ascii=False))),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": TOOLS},
        {"add_generation_prompt": True, "chat_template_kwargs": {"enable_thinking": False, "bos_token": "<!>"}},
    ],
)
def test_what_transformers_renders_is_rendered_alike(source, messages, options):
    given = dict(options)
    kwargs = given.pop("chat_template_kwargs", {})
    (expected,), _ = render_jinja_template([messages], chat_template=source, **given, **(TOKENS | kwargs))
    assert ChatTemplate(source, TOKENS).render(messages, **options) == expected


@pytest.mark.parametrize("text", ["It is", " It is ", "It\nis\n\n"])
@pytest.mark.parametrize("source", [CHATML, WITH_TOOLS, TEXT_ARGUMENTS, BOTH])
def test_the_final_message_is_continued_as_transformers_does(source, text):
    messages = [user("Hi"), {"role": "assistant", "content": text}]
    expected = as_transformers(source, messages, continue_final_message=True)
    assert ChatTemplate(source, TOKENS).render(messages, continue_final_message=True) == expected
    assert expected.endswith(text.strip()) or expected.endswith(text)


def test_parts_can_be_continued_too():
    messages = [user("Hi"), {"role": "assistant", "content": parts("a", "It is")}]
    text = ChatTemplate(BOTH, TOKENS).render(messages, continue_final_message=True)
    assert text == "<s>[user]Hi[assistant]aIt is"


# Forms that a template does not take become those that it takes.


@pytest.mark.parametrize("source", [CHATML, WITH_TOOLS, TEXT_ARGUMENTS])
def test_parts_are_joined_where_a_template_wants_text(source):
    template = ChatTemplate(source, TOKENS)
    joined = template.render([user("a\nb"), {"role": "assistant", "content": "c"}])
    assert template.render([user(parts("a", "b")), {"role": "assistant", "content": parts("c")}]) == joined


def test_text_becomes_a_part_where_a_template_wants_parts():
    template = ChatTemplate(PARTS, TOKENS)
    assert template.render(PLAIN) == "System: Be <brief>.<end>\nUser:  Hi <end>\nAssistant: Hello<end>\nAssistant:"


def test_arguments_are_a_mapping_or_text_as_a_template_wants_them():
    as_text = json.dumps(ARGUMENTS, ensure_ascii=False)
    for source, wanted in ((WITH_TOOLS, ARGUMENTS), (BOTH, ARGUMENTS), (TEXT_ARGUMENTS, as_text)):
        expected = as_transformers(source, calls(wanted), add_generation_prompt=True)
        for given in (ARGUMENTS, as_text, json.dumps(ARGUMENTS, indent=1)):
            assert ChatTemplate(source, TOKENS).render(calls(given)) == expected
    assert '"arguments": {}' in ChatTemplate(BOTH, TOKENS).render(calls(""))


def test_null_is_no_word():
    text = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", {}).render(calls({}))
    assert text == "[user]Rain?[assistant][tool]rain"
    assert ChatTemplate(CHATML, TOKENS).render(calls({}))  # which transformers refuses: it adds null to text


def test_keys_that_are_null_are_left_out():
    source = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    message = {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None, "reasoning_content": "hm"}
    expected = '{"role": "assistant", "content": "Hi", "reasoning_content": "hm"}'
    assert ChatTemplate(source, {}).render([message]) == expected


# Which template, and with what


def test_named_templates_are_chosen_as_transformers_does():
    template = ChatTemplate({"tool_use": "tools", "default": "plain"}, {})
    assert template.render([user("Hi")]) == "plain"
    assert template.render([user("Hi")], tools=[]) == "plain"
    assert template.render([user("Hi")], tools=TOOLS) == "tools"
    assert ChatTemplate({"default": "plain"}, {}).render([user("Hi")], tools=TOOLS) == "plain"
    with pytest.raises(RequestError, match=r"of the model's chat templates \['rag'\] none is called default"):
        ChatTemplate({"rag": "x"}, {}).render([user("Hi")])


def test_tools_that_a_template_does_not_show_are_named_in_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "mindspore_paged"):
        ChatTemplate(WITH_TOOLS, TOKENS).render([user("Hi")], tools=TOOLS)
        assert not caplog.messages
        ChatTemplate(CHATML, TOKENS).render([user("Hi")], tools=TOOLS)
    assert caplog.messages == ["tools: the model's chat template has no place for them; the model does not see them"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": "x"}, "tools is 'x'; it must be a list"),
        ({"tools": [{"name": "f"}]}, "tools[0].type is missing"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name is missing"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs is 5; it must be a mapping of names to values"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs holds tools; give it beside them"),
        ({"chat_template_kwargs": {"a": {1}}}, "messages: the model's chat template refused them: they hold what JSON"),
        ({"add_generation_prompt": 1}, "add_generation_prompt is 1; it must be true or false"),
        ({"continue_final_message": "no"}, "continue_final_message is 'no'; it must be true or false"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt is true; it must be false where continue_final_message is true",
        ),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(RequestError) as refusal:
        ChatTemplate(CHATML, TOKENS).render([user("Hi")], **options)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        (BOTH, calls({})[:2], "the last message has no text that could be continued"),
        ("{{ messages[0].content[:2] }}", [user("Hello")], "changes the text of the last message"),
        ("{{ bos_token }}", [user("Hello")], "changes the text of the last message"),
    ],
)
def test_messages_that_cannot_be_continued(source, messages, message):
    with pytest.raises(RequestError, match=f"^continue_final_message: .*{message}"):
        ChatTemplate(source, TOKENS).render(messages, continue_final_message=True)


ASKED = user("Rain?")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "messages is 'Hi'; it must be a list"),
        ([], "messages is []; it must be a list of at least one message"),
        (["Hi"], "messages[0] is 'Hi'; it must be a mapping"),
        ([{"content": "Hi"}], "messages[0].role is missing"),
        ([{"role": 1, "content": "Hi"}], "messages[0].role is 1; it must be text"),
        ([{"role": "", "content": "Hi"}], "messages[0].role is ''; it must be text that is not empty"),
        ([{"role": "user"}], "messages[0].content is missing"),
        ([user(None)], "messages[0].content is missing"),
        ([user(5)], "messages[0].content is 5; it must be text, a list of text parts, or null"),
        ([user({"text": "Hi"})], "messages[0].content is {'text': 'Hi'}; it must be text, a list of text parts"),
        ([user(["Hi"])], "messages[0].content[0] is 'Hi'; it must be a mapping"),
        ([user([{"type": "text"}])], "messages[0].content[0].text is missing"),
        ([user([*parts("a"), {"type": "image_url"}])], "messages[0].content[1].type is 'image_url'; it must be 'text'"),
        ([ASKED, {"role": "assistant"}], "messages[1].content is missing; it must be text, or tool_calls be there"),
        ([ASKED, {"role": "assistant", "tool_calls": "f"}], "messages[1].tool_calls is 'f'; it must be a list"),
        (calls("{"), "messages[1].tool_calls[0].function.arguments is '{'; it must be a mapping, or JSON text of one"),
        (calls([1]), "messages[1].tool_calls[0].function.arguments is [1]; it must be a mapping"),
        (calls("[1]"), "messages[1].tool_calls[0].function.arguments is [1]; it must be a mapping"),
    ],
)
def test_messages_that_are_none(messages, message):
    with pytest.raises(RequestError) as refusal:
        ChatTemplate(BOTH, TOKENS).render(messages)
    assert str(refusal.value).startswith(message)


# Templates that are none, or take too much


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "Expected an expression"),
        ("{{ messages | nothing }}", "line 1: there is no filter 'nothing'"),
        ("\n{{ messages is nothing }}", "line 2: there is no test 'nothing'"),
        ("{{ " + "(" * 5000, "recursion"),
        ("{% if 1 %}" * 5000, "recursion"),
        ("{{ 1" + "+ 1" * 5000 + " }}", "it is nested more than 200 deep"),
        ("{{ a" + ".b" * 5000 + " }}", "it is nested more than 200 deep"),
        ("{{ " + "9" * 5000 + " }}", "Exceeds the limit"),
        ("x" * (MAX_SOURCE + 1), f"it has {MAX_SOURCE + 1} characters; at most {MAX_SOURCE} are allowed"),
    ],
)
def test_templates_that_are_none(source, message):
    with pytest.raises(CheckpointError, match=f"^the model's chat template is not valid: .*{message}") as refusal:
        ChatTemplate(source, {})
    assert "\n" not in str(refusal.value)


def test_what_is_constant_in_a_template_is_not_computed_when_it_is_read():
    ChatTemplate(
        "{{ 10 ** 10 ** 10 }}{{ 'a' * 10 ** 11 }}{{ 'a' | center(10 ** 11) }}{{ 'a' | center(99999999999) }}", {}
    )


DOUBLED_TEXT = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
DOUBLED_LIST = "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages[0].content.index('zz') }}", "ValueError: substring not found"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ (2.0 ** 1023) * 2 ** 2000 }}", "OverflowError"),
        ("{{ messages[0].content.encode('utf-9') }}", "LookupError"),
        ("{{ raise_exception('two\nlines') }}", "two lines"),
        ("{{ raise_exception('x' * 100000) }}", "xxxxxx"),
        ("{% include 'other' %}", "TypeError"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "RecursionError"),
        ("{% for x in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{{ 'a' * 10 ** 10 }}", "it takes too much memory"),
        ("{{ 'a' | center(10 ** 10) }}", "it takes too much memory"),
        ("{{ '%10000000000d' % 1 }}", "it takes too much memory"),
        ("{{ '{:>10000000000}'.format(1) }}", "it takes too much memory"),
        (DOUBLED_TEXT, "it takes (too much memory|more than)"),
        ("{{ 'a' * 5 * 10 ** 6 }}", "it makes 5000000 characters of them, more than"),
        (DOUBLED_LIST, r"it takes more than 0\.2 s"),
        (LOOPS, r"it takes more than 0\.2 s"),
    ],
)
def test_whatever_a_template_does_is_one_line_and_bounded(source, message, monkeypatch):
    monkeypatch.setattr(bounded_rendering, "SECONDS", 0.2)
    with pytest.raises(
        RequestError, match="^messages: the model's chat template refused them: .*" + message
    ) as refusal:
        ChatTemplate(source, {}).render([user("Hi")])
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert ChatTemplate("{{ messages[0].content }}", {}).render([user("Hi")]) == "Hi"


def test_a_template_computes_no_deeper_than_the_sandbox():
    with pytest.raises(RequestError, match="unsafe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}{{ (1).__class__.__base__.__subclasses__() }}", {}).render(
            [user("x")]
        )


def test_an_interrupted_rendering_leaves_no_answer_behind(monkeypatch):
    template = ChatTemplate("{{ messages[0].content }}", {})
    template.render([user("first")])

    class Interrupted:
        def readline(self):
            raise KeyboardInterrupt

        def close(self):
            pass

    monkeypatch.setattr(bounded_rendering._RENDERER._process, "stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        template.render([user("second")])
    monkeypatch.undo()
    assert template.render([user("third")]) == "third"


def test_a_process_that_ended_while_nobody_asked_is_replaced():
    template = ChatTemplate("{{ messages[0].content }}", {})
    template.render([user("first")])
    bounded_rendering._RENDERER._process.kill()
    assert template.render([user("second")]) == "second"


def test_long_chats_may_take_more():
    messages = [user("word " * 1000), {"role": "assistant", "content": "answer " * 1000}] * 500
    text = ChatTemplate(CHATML, TOKENS).render(messages)
    assert text == as_transformers(CHATML, messages, add_generation_prompt=True)
