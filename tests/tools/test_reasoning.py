"""Thoughts are told from answers, however the text is split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.tools.answer_parser import AnswerParser
from mindspore_paged.tools.call_parser import CallParser
from mindspore_paged.tools.forms import GENERIC, THOUGHT_FORMS
from mindspore_paged.tools.pieces import Parts
from mindspore_paged.tools.reasoning import ReasoningParser

THINK = THOUGHT_FORMS[0]


def read(pieces, opened=False, calls=None) -> Parts:
    parser = AnswerParser(ReasoningParser(THINK, opened), calls)
    parts = Parts()
    for piece in pieces:
        parts.add(parser.feed(piece))
    return parts.add(parser.finish())


@pytest.mark.parametrize(
    ("opened", "text", "reasoning", "content"),
    [
        (False, "<think>\nHm.\n\nSo.\n</think>\n\nYes.\n", "Hm.\n\nSo.", "Yes.\n"),
        (True, "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        (True, "\nHm.", "Hm.", ""),  # cut off
        (True, "Hm </thin", "Hm </thin", ""),
        (False, "Yes.", "", "Yes."),
        (False, "<thin", "", "<thin"),
        (False, "  <b>bold</b>", "", "  <b>bold</b>"),
        (False, "<think>\n\n</think>\n\nYes.", "", "Yes."),
        (False, "Use <think> and </think>.", "", "Use <think> and </think>."),
        (True, "a</think>b<think>c</think>", "a", "b<think>c</think>"),
        (False, "", "", ""),
    ],
)
def test_thoughts_and_the_answer(opened, text, reasoning, content):
    parts = read([text], opened)
    assert (parts.reasoning, parts.content) == (reasoning, content)
    assert read(text, opened) == parts


@settings(max_examples=300)
@given(
    text=st.lists(
        st.sampled_from(["<think>", "</think>", "\n", " ", "a", "<", "</", "think>", "</th", " " * 70]), max_size=14
    ).map("".join),
    cuts=st.sets(st.integers(0, 60), max_size=8),
    opened=st.booleans(),
)
def test_any_split_gives_what_the_whole_gives(text, cuts, opened):
    cuts = sorted(cut for cut in cuts if cut <= len(text))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read([text], opened)
    assert read(pieces, opened) == whole
    kept = "".join((whole.reasoning + whole.content).split())
    without = "".join(text.split())
    assert len(without) - len(kept) in (0, len("<think>"), len("</think>"), len("<think></think>"))


@pytest.mark.parametrize("space", [" " * 63, "\n" * 65, " " * 300])
@pytest.mark.parametrize("text", ["{}<think>a</think>b", "<think>{}a{}</think>{}b", "<think>{}</think>", "{}b", "{}"])
@pytest.mark.parametrize("opened", [True, False])
def test_long_white_space_is_one_thing_however_it_comes(text, space, opened):
    text = text.replace("{}", space)
    assert read(text, opened) == read([text], opened)


def test_calls_in_thoughts_are_thoughts():
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    text = f"<think>I could write {call}</think>\n{call}"
    parts = read(text, calls=CallParser(GENERIC, ["f"]))
    assert parts == Parts(reasoning=f"I could write {call}", calls=[("f", "{}")])


def test_other_marks():
    parser = ReasoningParser(THOUGHT_FORMS[1], opened=False)
    assert parser.feed("[THINK]Hm.[/THINK]Yes.") == ("Hm.", "Yes.")
