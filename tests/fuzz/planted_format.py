"""A format whose reader has every fault there is: what the fuzzer must find."""

import ctypes
import os
import time
from pathlib import Path

from mindspore_paged.errors import CheckpointError, IntegrityError
from tests.fuzz.mutant import EVERYTHING, FileFormat, Mutant

FILE = "file"


def _hang():
    while True:
        pass


def _memory():
    bytearray(4 << 30)


def _refuse(path: Path, message: str):
    raise CheckpointError(f"{path}{message}")


def _raise(error: BaseException):
    raise error


FAULTS = {
    b"right": ("right", lambda path: None),
    b"refused": ("refused", lambda path: _refuse(path, ": no")),
    b"wrong": ("wrong", lambda path: None),
    b"two lines": ("unclear", lambda path: _refuse(path, ": a\nb")),
    b"escapes": ("unclear", lambda path: _refuse(path, ": \x1b[2J")),
    b"surrogate": ("unclear", lambda path: _refuse(path, ": \ud800")),
    b"long": ("unclear", lambda path: _refuse(path, "x" * 5000)),
    b"nameless": ("unclear", lambda path: _refuse(Path("it"), ": no")),
    b"key": ("other", lambda path: _raise(KeyError("a"))),
    b"integrity": ("other", lambda path: _raise(IntegrityError(f"{path}: no"))),
    b"exit": ("other", lambda path: _raise(SystemExit(0))),
    b"memory": ("memory", lambda path: _memory()),
    b"hang": ("hang", lambda path: _hang()),
    b"segfault": ("crash", lambda path: ctypes.string_at(0)),
    b"leave": ("crash", lambda path: os._exit(0)),
    b"slow": ("right", lambda path: time.sleep(0.01)),
}
"""By content: what must be found, and what the reader does."""


class PlantedFormat(FileFormat):
    """Each of them in turn."""

    def mutant(self, seed: int, number: int) -> Mutant:
        """Fault `number`."""
        content = list(FAULTS)[number % len(FAULTS)]
        return Mutant({FILE: content}, content.decode(), EVERYTHING if content == b"wrong" else frozenset())


def use(folder: Path) -> dict:
    """Do what the content says."""
    content = (folder / FILE).read_bytes()
    FAULTS[content][1](folder / FILE)
    return {"content": content}


FORMATS = (PlantedFormat("planted", [{FILE: b"right"}], (), use),)
