"""Whatever a file holds, a message about it stays short and one line."""

import numpy as np
import pytest

from mindspore_paged.wording import one_line, shortened


class Unprintable:
    def __repr__(self):
        raise ValueError("no")


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        "a\nb",
        [["x" * 1000] * 1000] * 1000,
        {"k" * 1000: 1},
        10**5000,
        [10**5000],
        np.eye(9),
        Unprintable(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_makes_a_short_line(value):
    assert "\n" not in shortened(value)
    assert len(shortened(value)) <= 300


@pytest.mark.parametrize("value", [5, 1.5, "name", True, None, [1], {"a": 1}, "n" * 100])
def test_what_is_short_is_said_as_it_is(value):
    assert shortened(value) == repr(value)


def test_the_words_of_others_become_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line("x" * 1000) == "x" * 297 + "..."


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\x1b[2Jb", "a\\x1b[2Jb"), ("a\0\u200b", "a\\x00\\u200b"), ("\ud800x", "\\ud800x"), ("héé 日本", "héé 日本")],
)
def test_nothing_of_it_moves_the_cursor_or_cannot_be_printed(text, line):
    assert one_line(text) == line
    assert one_line(text * 100).isprintable()
    one_line(text * 100).encode("utf-8")


@pytest.mark.parametrize("size", [299, 300, 301, 100_000])
def test_a_long_line_is_cut(size):
    assert one_line("x" * size) == ("x" * size if size <= 300 else "x" * 297 + "...")
    assert len(one_line("\x1b" * size)) == 300
