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
