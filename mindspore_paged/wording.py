"""Values of files and words of other programs as parts of our own messages: short, and one line."""

import reprlib
from typing import Any


class _Repr(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = 120

    def repr_int(self, value: int, level: int) -> str:
        # Python writes out no number of thousands of digits.
        return super().repr_int(value, level) if value.bit_length() < 1024 else f"a number of {value.bit_length()} bits"


def shortened(value: Any) -> str:
    """`repr(value)` as a message may hold it, whatever the value is: one line of at most 300 characters."""
    return one_line(_Repr().repr(value))


def one_line(text: Any) -> str:
    """What another program says, as a message may hold it: `str(text)` in one line of at most 300 characters.

    What would move a terminal's cursor, or is half a character, is shown by its number.
    """
    line = " ".join(str(text).split())[:301]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= 300 else f"{line[:297]}..."


def is_unicode(text: str) -> bool:
    """Whether it is text that can be written down, which half a surrogate pair is not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def shown(name: str) -> str:
    """A name from a file as a message may hold it: as it is, or where it is long or not printable as `shortened`."""
    return name if name.isprintable() and len(name) <= 120 else shortened(name)
