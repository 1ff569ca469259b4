"""Prompts files: what a line may say, and what is said of a line that cannot be used."""

import json
from dataclasses import replace

import pytest

from mindspore_paged.errors import RequestError
from mindspore_paged.prompts_file import MAX_LINE, SAMPLING_KEYS, read_prompts_file
from mindspore_paged.sampling.sampling_params import SamplingParams

DEFAULTS = SamplingParams(max_tokens=7, temperature=0.5, stop=("x",))
GOOD = '{"prompt": "Hi"}'


@pytest.fixture
def read(tmp_path):
    def write_and_read(text: str | bytes):
        path = tmp_path / "prompts.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_prompts_file(path, DEFAULTS)

    return write_and_read


def test_each_kind_of_line_is_read_and_empty_ones_are_skipped(read, tmp_path):
    messages = '{"messages": [{"role": "user", "content": "Hi"}]}'
    entries = read(f'{GOOD}\n\n   \n{{"prompt_token_ids": [1, 2]}}\r\n{messages}')
    assert [entry.prompt for entry in entries] == ["Hi", [1, 2], [{"role": "user", "content": "Hi"}]]
    assert [entry.params for entry in entries] == [DEFAULTS] * 3
    assert [entry.origin for entry in entries] == [f"{tmp_path}/prompts.jsonl line {number}" for number in (1, 4, 5)]


def test_sampling_keys_of_a_line_are_for_that_line_alone(read):
    first, second = read('{"prompt": "a", "temperature": 0, "n": 3, "stop": ["y", "z"], "seed": 5}\n{"prompt": "b"}')
    assert first.params == SamplingParams(max_tokens=7, temperature=0, n=3, stop=("y", "z"), seed=5)
    assert second.params == DEFAULTS


def test_priority_and_class_of_a_line_are_for_that_line_alone(read):
    first, second = read('{"prompt": "a", "priority": -3, "request_class": "summary", "n": 2}\n{"prompt": "b"}')
    assert (first.priority, first.request_class, first.params.n) == (-3, "summary", 2)
    assert (second.priority, second.request_class) == (0, None)


def test_messages_may_have_tools_and_what_their_template_asks_for(read):
    messages = '[{"role": "assistant", "content": [{"type": "text", "text": "Hi"}], "refusal": null}]'
    tools = '[{"type": "function", "function": {"name": "f", "parameters": {}}}]'
    line = (
        f'{{"messages": {messages}, "tools": {tools}, "chat_template_kwargs": {{"enable_thinking": false}}, '
        f'"continue_final_message": true, "add_generation_prompt": null, "n": 2}}'
    )
    (entry,) = read(line)
    assert entry.prompt == {
        "messages": json.loads(messages),
        "tools": json.loads(tools),
        "chat_template_kwargs": {"enable_thinking": False},
        "continue_final_message": True,
    }
    assert entry.params.n == 2


def test_null_is_the_default_of_the_run_unless_it_is_a_value(read):
    nulls = ", ".join(f'"{key}": null' for key in (*SAMPLING_KEYS, "priority", "request_class", "tools", "messages"))
    (entry,) = read(f'{{"prompt": "a", {nulls}}}')
    assert entry.params == replace(DEFAULTS, max_tokens=None)
    assert (entry.priority, entry.request_class) == (0, None)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_what_ends_a_line_for_python_alone_may_stand_in_a_text(read, character):
    assert read(f'{{"prompt": "a{character}b"}}')[0].prompt == f"a{character}b"


def test_a_byte_order_mark_is_no_part_of_the_first_line(read):
    assert read(b"\xef\xbb\xbf" + GOOD.encode())[0].prompt == "Hi"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("Hello", "not JSON: Expecting value at column 1"),
        ('{"prompt": "a"} {"prompt": "b"}', "not JSON: Extra data at column 17"),
        ('{"prompt_token_ids": [' + "9" * 5000 + "]}", "not JSON that can be read: Exceeds the limit"),
        ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON that can be read: maximum recursion depth"),
        ('["Hi"]', "not a JSON object"),
        ("{}", "it has none of prompt, prompt_token_ids, messages; exactly one is needed"),
        ('{"prompt": "a", "messages": []}', "it has prompt, messages of prompt, prompt_token_ids, messages"),
        ('{"prompt": "a", "temprature": 1}', "unknown key 'temprature'; did you mean temperature?"),
        ('{"prompt": "a", "priorty": 1}', "unknown key 'priorty'; did you mean priority?"),
        ('{"promt": "a", "prompt": "b"}', "unknown key 'promt'; did you mean prompt?"),
        ('{"prompt": "a", "zzz": 1}', "unknown key 'zzz'; known keys: prompt, prompt_token_ids, messages, max_tokens"),
        ('{"prompt": 5}', "prompt is 5; it must be a string"),
        ('{"prompt": null}', "it has none of prompt, prompt_token_ids, messages"),
        ("null", "not a JSON object"),
        ('{"prompt": "a", "prompt": "b"}', "not JSON that can be read: the key 'prompt' stands twice"),
        ('{"prompt": "\\ud83d"}', "it holds half a surrogate pair, which is no Unicode text"),
        ('{"prompt": "a", "stop": ["\\ude00"]}', "it holds half a surrogate pair"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "it holds half a surrogate pair"),
        ('{"prompt": "' + "a" * MAX_LINE + '"}', f"it has more than {MAX_LINE} bytes"),
        ('{"prompt": ["a"]}', "prompt is ['a']; it must be a string"),
        ('{"prompt": "a", "max_tokens": 1e999}', "max_tokens is inf; it must be a whole number"),
        ('{"prompt": "a", "seed": ' + "9" * 400 + "}", "seed is a number of 1329 bits; it must be a whole number"),
        ('{"prompt": "a", "tools": []}', "tools belongs to messages, but it has prompt"),
        ('{"prompt": "a", "continue_final_message": true}', "continue_final_message belongs to messages"),
        ('{"prompt_token_ids": "12"}', "prompt_token_ids is '12'; it must be a list of whole numbers"),
        ('{"prompt_token_ids": [1.0]}', "prompt_token_ids must be a list of whole numbers"),
        ('{"prompt_token_ids": [true]}', "prompt_token_ids must be a list of whole numbers"),
        ('{"messages": []}', "messages is []; it must be a list of at least one message"),
        ('{"messages": "Hi"}', "messages is 'Hi'; it must be a list of messages"),
        ('{"messages": ["Hi"]}', "messages[0] is 'Hi'; it must be a mapping"),
        ('{"messages": [{"content": "Hi"}]}', "messages[0].role is missing"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content is missing"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
            "messages[0].content[0].type is 'image_url'; it must be 'text'",
        ),
        ('{"messages": [{"role": "user", "content": "Hi"}], "tools": [5]}', "tools[0] is 5; it must be a mapping"),
        ('{"messages": [], "tool": []}', "unknown key 'tool'; did you mean tools?"),
        ('{"prompt": "a", "temperature": -1}', "temperature is -1; it must be 0 or more, and finite"),
        ('{"prompt": "a", "temperature": "hot"}', "temperature is 'hot'; it must be a finite number"),
        ('{"prompt": "a", "temperature": NaN}', "temperature is nan; it must be a finite number"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens is 0; it must be at least 1, or none"),
        ('{"prompt": "a", "stop": 5}', "stop is 5; it must be a string or a list of strings"),
    ],
)
def test_a_bad_line_is_named_by_its_number(read, tmp_path, line, message):
    with pytest.raises(RequestError) as error:
        read(f"{GOOD}\n\n{line}\n{GOOD}")
    assert str(error.value).startswith(f"{tmp_path}/prompts.jsonl line 3: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_a_file_without_prompts(read, text):
    with pytest.raises(RequestError, match=r"prompts.jsonl: no prompts in it"):
        read(text)


def test_files_that_cannot_be_read(read, tmp_path):
    with pytest.raises(RequestError, match=r"absent: cannot read the prompts: No such file or directory"):
        read_prompts_file(tmp_path / "absent", DEFAULTS)
    with pytest.raises(RequestError, match="cannot read the prompts: Is a directory"):
        read_prompts_file(tmp_path, DEFAULTS)
    with pytest.raises(RequestError, match=r"prompts.jsonl line 1: not a prompts file: it is not UTF-8 text"):
        read(b"\xff\xfe")


def test_a_line_names_no_code(read):
    with pytest.raises(RequestError, match="line 1: logits_processors names code, which a prompts file may not"):
        read('{"prompt": "a", "logits_processors": ["os:system"]}')
    assert read('{"prompt": "a", "logits_processors": []}')[0].params == DEFAULTS
