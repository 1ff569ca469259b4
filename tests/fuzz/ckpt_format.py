"""MindSpore's .ckpt files: messages of protobuf that name a tensor, its type and shape, and hold its bytes."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.answers import model_answer
from tests.fuzz.folder_samples import MODEL_CONFIG, weights
from tests.fuzz.havoc import LIES, havoc_of, lie_about, splice
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant

FILE = "model.ckpt"
# Of checkpoint.proto: Checkpoint.value; Value.tag, Value.tensor; TensorProto.dims, .tensor_type, .tensor_content.
VALUE, TAG, TENSOR, DIMS, TYPE, CONTENT = 1, 1, 2, 1, 2, 3
TYPES = (
    b"Float32",
    b"Float16",
    b"BFloat16",
    b"Int8",
    b"Int64",
    b"Bool",
    b"str",
    b"Int4",
    b"object",
    b"",
    b"\xff",
    b"x" * 999,
)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    groups = []
    number %= 2**64
    while True:
        number, low = number >> 7, number & 0x7F
        groups.append(low | 0x80 if number else low)
        if not number:
            return bytes(groups)


def number_field(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def bytes_field(field: int, content: bytes, length: int | None = None, kind: int = 2) -> bytes:
    return varint(field << 3 | kind) + varint(len(content) if length is None else length) + content


def entry(tag: bytes, dims: list[int], kind: bytes, content: bytes) -> bytes:
    """One tensor of a file."""
    tensor = (
        b"".join(number_field(DIMS, size) for size in dims) + bytes_field(TYPE, kind) + bytes_field(CONTENT, content)
    )
    return bytes_field(VALUE, bytes_field(TAG, tag) + bytes_field(TENSOR, tensor))


def _tensors() -> list[tuple[bytes, list[int], bytes, bytes]]:
    kinds = ((np.float32, b"Float32"), (np.float16, b"Float16"))
    values = weights().items()
    return [
        (name.encode(), list(value.shape), kinds[index % 2][1], value.astype(kinds[index % 2][0]).tobytes())
        for index, (name, value) in enumerate(values)
    ]


_TENSORS = _tensors()
_SAMPLES = [{FILE: b"".join(entry(*tensor) for tensor in _TENSORS)}]


def a_tensor(_files: Files, random: Random) -> Mutant:
    """One tensor with another name, shape, type or length."""
    tensors = list(_TENSORS)
    at = random.randrange(len(tensors))
    tag, dims, kind, content = tensors[at]
    what = random.choice(("tag", "dims", "kind", "content", "gone", "twice"))
    if what == "tag":
        tag = random.choice((b"", b"\xff", b"a\nb", b"\x1b[2J", b"x" * 3000, tensors[0][0], b"global_step", b"a" * 300))
    elif what == "dims":
        dims = random.choice(
            ([], [0], [-1, 8], [2**32, 2**32], [2**62], [lie_about(dims[0], random), *dims[1:]], dims[::-1], [1, *dims])
        )
    elif what == "kind":
        kind = random.choice(TYPES)
    elif what == "content":
        content = random.choice((b"", content[:-1], content + b"a", content * 2, content[: len(content) // 2]))
    tensors[at : at + 1] = {"gone": [], "twice": [tensors[at]] * 2}.get(what, [(tag, dims, kind, content)])
    return Mutant({FILE: b"".join(entry(*tensor) for tensor in tensors)}, f"{what} of {at}: {kind!r:.30} {dims}")


def fields(_files: Files, random: Random) -> Mutant:
    """Fields of wrong kinds, lengths and numbers."""
    parts = [entry(*tensor) for tensor in _TENSORS]
    at = random.randrange(len(parts))
    tag, dims, kind, content = _TENSORS[at]
    length = random.choice((*LIES, len(content) + 1))
    lies = (
        bytes_field(VALUE, b"", length),
        bytes_field(VALUE, bytes_field(TAG, tag, length)),
        bytes_field(VALUE, bytes_field(TAG, tag) + bytes_field(TENSOR, bytes_field(CONTENT, content, length))),
        bytes_field(VALUE, bytes_field(TAG, tag) + number_field(TENSOR, 5)),
        bytes_field(VALUE, bytes_field(TAG, tag)),
        bytes_field(VALUE, bytes_field(TENSOR, b"")),
        bytes_field(
            VALUE,
            bytes_field(TAG, tag) + bytes_field(TENSOR, bytes_field(TYPE, kind) + bytes_field(DIMS, b"\x80" * 20)),
        ),
        number_field(random.choice((0, 1, 2, 2**29 - 1)), length),
        bytes_field(random.choice((2, 99)), content),
        bytes_field(VALUE, content, kind=random.choice((1, 3, 4, 5, 6, 7))),
        b"\x0b" * random.choice((10, 200, 100_000)),
        b"\x80" * 100,
    )
    number = random.randrange(len(lies))
    parts[at] = lies[number]
    return Mutant({FILE: b"".join(parts)}, f"lie {number} in {at} of {dims}")


def harmless(_files: Files, random: Random) -> Mutant:
    """Tensors in another order, and fields that nobody knows."""
    parts = [entry(*tensor) for tensor in _TENSORS]
    random.shuffle(parts)
    unknown = bytes_field(
        VALUE, bytes_field(TAG, b"global_step") + bytes_field(TENSOR, _scalar()) + bytes_field(15, b"a")
    )
    what = random.choice(("order", "unknown"))
    if what == "unknown":
        parts[0] = parts[0] + bytes_field(15, b"unknown")
    return Mutant({FILE: b"".join(parts)}, f"{what} {len(unknown)}", EVERYTHING)


def spliced(files: Files, random: Random) -> Mutant:
    return Mutant({FILE: splice(files[FILE], files[FILE], random)}, "of itself")


def _scalar() -> bytes:
    return number_field(DIMS, 1) + bytes_field(TYPE, b"Int32") + bytes_field(CONTENT, bytes(4))


def use(folder: Path) -> dict[str, Any]:
    """Open the file as part of a model that is known, and read all of it."""
    return model_answer(folder / FILE, MODEL_CONFIG)


FORMATS = (FileFormat("ckpt", _SAMPLES, (a_tensor, a_tensor, fields, harmless, spliced, havoc_of(), havoc_of()), use),)
