"""Mutations that know nothing of a format: bits, bytes, numbers, pieces and ends of files."""

import struct
from collections.abc import Callable
from random import Random

from tests.fuzz.mutant import Files, Mutant

COUNTS = (0, 1, 2, 3, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63)
LIES = (*COUNTS, 2**64 - 1, 2**64 - 8, 2**64 - 32)
"""Unsigned numbers of 64 bits at which arithmetic goes wrong."""


def lie_about(number: int, random: Random) -> int:
    """Another number in place of a true one: a neighbour, a multiple, or one at which arithmetic goes wrong."""
    near = (number + 1, number - 1, number * 2, number + 32, number // 2, number * 1000, -number)
    return random.choice(near if random.random() < 0.5 else LIES) % 2**64


def flip_bits(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_bytes(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 4, 32))):
        if changed:
            changed[random.randrange(len(changed))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(changed)


def overwrite_number(content: bytes, random: Random) -> bytes:
    form = random.choice("BHIQ")
    width = struct.calcsize(form)
    at = random.randrange(max(len(content) - width, 0) + 1)
    number = random.choice(LIES) % 2 ** (8 * width)
    order = random.choice("<>")
    return content[:at] + struct.pack(order + form, number) + content[at + width :]


def truncate(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def remove_piece(content: bytes, random: Random) -> bytes:
    start = random.randrange(len(content) + 1)
    return content[:start] + content[start + random.choice((1, 2, 8, 64, 1000)) :]


def insert_piece(content: bytes, random: Random) -> bytes:
    at, start = (random.randrange(len(content) + 1) for _ in range(2))
    length = random.choice((1, 4, 8, 100))
    piece = random.choice((content[start : start + length], bytes(length), b"\xff" * length, random.randbytes(length)))
    return content[:at] + piece + content[at:]


def repeat_piece(content: bytes, random: Random) -> bytes:
    start = random.randrange(len(content) + 1)
    piece = content[start : start + random.choice((1, 3, 16, 200))]
    return content[:start] + piece * random.choice((2, 10, 500)) + content[start:]


def swap_halves(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[at:] + content[:at]


def something_else(_content: bytes, random: Random) -> bytes:
    wholes = (
        b"",
        b"\0" * 4096,
        b"\xff" * 4096,
        b"GGUF",
        b"{}",
        b"[]",
        b"null",
        b"PK\x03\x04",
        b"\x80\x04.",
        b"\n" * 999,
    )
    return random.choice((*wholes, random.randbytes(1000)))


HAVOC = (
    *(flip_bits, set_bytes, overwrite_number, truncate, remove_piece, insert_piece, repeat_piece, swap_halves),
    something_else,
)


def havoc_of(names: Callable[[Files], list[str]] = list, keeps: frozenset[str] = frozenset()):
    """A mutator: one or more of these on one of the files that `names` chooses."""

    def havoc(files: Files, random: Random) -> Mutant:
        name = random.choice(names(files))
        changes = random.choices(HAVOC, k=random.choice((1, 1, 1, 2, 4)))
        for change in changes:
            files[name] = change(files[name], random)
        return Mutant(files, f"{name} {[change.__name__ for change in changes]}", keeps)

    return havoc


def splice(first: bytes, second: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return first[: random.randrange(len(first) + 1)] + second[random.randrange(len(second) + 1) :]
