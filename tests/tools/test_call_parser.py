"""Calls are found in any family's form, however the text is split, and nothing else of it is lost."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.tools.call_parser import CallParser
from mindspore_paged.tools.forms import FORMS, GENERIC
from mindspore_paged.tools.pieces import Parts

BY_NAME = {form.name: form for form in (*FORMS, GENERIC)}
NAMES = ("f", "get_weather", "x-1")


def read(form, pieces, **options) -> Parts:
    parser = CallParser(BY_NAME[form], NAMES, **options)
    parts = Parts()
    for piece in pieces:
        parts.add(parser.feed(piece))
    return parts.add(parser.finish())


def written(form, calls) -> str:
    """Calls as a model of that family writes them."""
    form = BY_NAME[form]
    if form.style == "named":
        return "".join(f"{form.begin}{name}{form.key}{json.dumps(arguments)}" for name, arguments in calls)
    objects = [json.dumps({"name": name, form.key: arguments}) for name, arguments in calls]
    if form.style == "list":
        return f"{form.begin} [{', '.join(objects)}]"
    if not form.begin:
        return "; ".join(objects)
    return "\n".join(f"{form.begin}\n{one}\n{form.end}" for one in objects)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["<tool_call>", "</tool_call>", '}"{', "[TOOL_CALLS]", "\\", '"', "[ARGS]{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
CALLS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=6), VALUES, max_size=4)), min_size=1, max_size=3
)
PROSE = st.text(alphabet="ab {}[],;\n\"<tol_c>:'", max_size=20)
SNIPPETS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<|python_tag|>", "[CALL_ID]ab1"),
        *('{"name": "f", "arguments": {', '{"name": "f", "parameters": {}}', '{"name": "no", "arguments": {}}'),
        *('{"name": "f", "arguments": {"a": 1}}', '{"arguments": {"b": [1]}, "name": "x-1"}', '{"name": "f"}'),
        *("{", "}", "[", "]", ",", ";", "\n", " ", '"', "\\", "f", "text", "<", "[TOOL", "{}", "null", '{"name"'),
        *(
            '{"name": ["f"], "arguments": {}}',
            '{"name": "f", "arguments": 5}',
            '{"name": "f", "arguments": {"a": NaN}}',
        ),
        " " * 70,
    ]
)


def splits_of(draw, text):
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("form", BY_NAME)
@given(data=st.data())
def test_calls_come_out_as_they_were_written(form, data):
    calls = data.draw(CALLS)
    text = written(form, calls)
    for eager in (False, True):
        parts = read(form, splits_of(data.draw, text), eager=eager)
        assert [(name, json.loads(arguments)) for name, arguments in parts.calls] == calls
        assert parts.content == ""


@pytest.mark.parametrize("form", BY_NAME)
@settings(max_examples=300)
@given(data=st.data())
def test_any_split_gives_what_the_whole_gives(form, data):
    text = "".join(data.draw(st.lists(SNIPPETS | PROSE, max_size=12)))
    for eager in (False, True):
        whole = read(form, [text], eager=eager)
        assert read(form, splits_of(data.draw, text), eager=eager) == whole
        assert read(form, text, eager=eager) == whole  # character by character
        if not whole.calls:
            assert whole.content == text
    for _, arguments in read(form, [text]).calls:
        assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize("form", ["hermes", "mistral", "mistral, by name", "granite", "generic"])
@given(data=st.data())
def test_text_around_calls_is_content(form, data):
    words = st.sampled_from(["", "Wait.", "So: {x}", "a [b]"])
    before, after = data.draw(words), data.draw(words if BY_NAME[form].end else st.just(""))
    calls = data.draw(CALLS)
    text = f"{before}\n{written(form, calls)}" + (f"\n{after}" if after else "")
    parts = read(form, splits_of(data.draw, text))
    assert [(name, json.loads(arguments)) for name, arguments in parts.calls] == calls
    assert parts.content == before + (f"\n{after}" if after else "")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1'),
        ("hermes", '<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>'),
        ("hermes", "<tool_call>\nf(a=1)\n</tool_call>"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}, "name": "nobody"}</tool_call>'),
        ("hermes", '<tool_call>{"name": ["f"], "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
        ("hermes", "Use <tool_call> and </tool_call>."),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": }}]'),
        ("mistral, by name", "[TOOL_CALLS]nobody[ARGS]{}"),
        ("llama 3", '{"name": "nobody", "parameters": {}}'),
        ("llama 3", '{"answer": 5}'),
        ("llama 3", 'Call {"name": "f", "parameters": {}}'),
        ("llama 3", "<|python_tag|>print(1)"),
    ],
)
def test_what_is_no_call_is_content(form, text):
    parts = read(form, [text])
    assert (parts.calls, parts.content) == ([], text)


def test_variants_that_models_write():
    call = [("f", '{"a": 1}')]
    assert read("hermes", ['<tool_call>{"name":"f","arguments":{"a": 1}}</tool_call>']).calls == call
    assert read("hermes", ['<tool_call>\n[{"name": "f", "arguments": {"a": 1}}]\n</tool_call>']).calls == call
    assert read("hermes", ['<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>']).calls == call
    assert read("hermes", ['<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>']).calls == call
    assert read("hermes", ['<tool_call>\n{"name": "f", "arguments": {"a": 1}}']).calls == call  # no end
    assert read("llama 3", ['<|python_tag|>{"name": "f", "parameters": {"a": 1}}']).calls == call
    assert read("llama 3", ['{"type": "function", "name": "f", "parameters": {"a": 1}}']).calls == call
    assert read("mistral", ['[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abc123def"}]']).calls == call
    assert read("mistral, by name", ['[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a": 1}']).calls == call
    assert read("hermes", ['<tool_call>{"name": "f"}</tool_call>']).calls == [("f", "{}")]


@pytest.mark.parametrize("space", [" " * 63, "\n" * 65, " " * 300])
@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", 'So.{}<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'),
        ("hermes", '<tool_call>{}{"name": "f", "arguments": {"a": 1}}</tool_call>'),
        ("hermes", '<tool_call>{"name":{}"f", "arguments": {"a": 1}}{}</tool_call>{}'),
        ("hermes", '<tool_call>[{"name": "f", "arguments": {"a": 1}}{},{}{"name": "f"}{}]{}</tool_call>{}Yes'),
        ("mistral, by name", '[TOOL_CALLS]f{}[ARGS]{"a": 1}{}[TOOL_CALLS]f[ARGS]{}{"a": 2}{}'),
        ("llama 3", '{}{"name": "f", "parameters": {"a": 1}}{};{}{"name": "f", "parameters": {"a": 1}}{}'),
        ("llama 3", '{"name":{}"f", "parameters": {"a": 1}}{}So.'),
    ],
)
def test_long_white_space_is_one_thing_however_it_comes(form, text, space):
    text = text.replace('{"a', "[[").replace("{}", space).replace("[[", '{"a')
    for eager in (False, True):
        whole = read(form, [text], eager=eager)
        for size in (1, 2, 61, 200):
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            assert read(form, pieces, eager=eager) == whole


def test_a_broken_call_does_not_hide_the_next():
    text = "<tool_call>oops</tool_call>" + written("hermes", [("f", {"a": 1})])
    parts = read("hermes", [text])
    assert parts.calls == [("f", '{"a": 1}')]
    assert parts.content == "<tool_call>oops</tool_call>"


def test_eager_arguments_come_as_the_text_does():
    parser = CallParser(GENERIC, NAMES, eager=True)
    pieces = [
        parser.feed(piece) for piece in ('<tool_call>\n{"name": "f", "argu', 'ments": {"a"', ": [1, ", "2]}", "}\n")
    ]
    assert [[(piece.kind, piece.text) for piece in of] for of in pieces] == [
        [],
        [("name", "f"), ("arguments", '{"a"')],
        [("arguments", ": [1, ")],
        [("arguments", "2]}")],
        [],
    ]


def test_only_so_many_calls_are_told():
    calls = [("f", {"a": 1}), ("f", {"a": 2})]
    for eager in (False, True):
        parts = read("generic", [written("generic", calls)], most_calls=1, eager=eager)
        assert parts.calls == [("f", '{"a": 1}')]


@pytest.mark.parametrize("end", ["", "}"])
@pytest.mark.parametrize(
    "unit", ["<tool_call>", "<tool_call>{", "<tool_call>[", '<tool_call>{"name": "f", "arguments": {"']
)
@pytest.mark.parametrize("eager", [False, True])
def test_runaway_answers_take_no_more_than_their_length(unit, end, eager, monkeypatch):
    """Counts the characters that are scanned: twice the text is at most what they may be."""
    from mindspore_paged.tools import json_scanner

    scanned = 0
    advance = json_scanner.JsonScanner.advance

    def counted(self, text, at, until):
        nonlocal scanned
        end, whole = advance(self, text, at, until)
        scanned += end - at
        return end, whole

    monkeypatch.setattr(json_scanner.JsonScanner, "advance", counted)
    text = unit * 2000 + end * 2000
    parts = read("hermes", [text[at : at + 7] for at in range(0, len(text), 7)], eager=eager)
    assert parts.calls or parts.content == text
    assert scanned <= 2 * len(text)
