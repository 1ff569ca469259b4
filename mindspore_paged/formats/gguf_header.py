"""The header of one GGUF file: metadata and tensor table, each number in it compared with what the file holds."""

import math
import mmap
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.foreign_file import foreign_kind, read_start
from mindspore_paged.wording import shortened

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
DEEPEST_ARRAY = 4
LONGEST_NAME = 255
"""Bytes of a tensor's name; llama.cpp writes at most 63."""

_OLDER_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""What llama.cpp wrote before GGUF: ggml, ggmf, ggjt, and ggla for LoRA."""
_MARKED = "surrogateescape"
"""Names of keys may hold any bytes; those that are no UTF-8 become characters that no text has, nor can be printed."""

_NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8"}
_STRING, _ARRAY = 8, 9
_LEAST_STRING, _LEAST_ARRAY = 8, 12
_LEAST_ENTRY = 8 + 4 + 1  # the length of a key, the kind of its value, one byte of value
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # the length of a name, the number of dimensions, one of them, the type, the offset
_DTYPES = {
    GGMLQuantizationType.F32: np.dtype("<f4"),
    GGMLQuantizationType.F16: np.dtype("<f2"),
    GGMLQuantizationType.F64: np.dtype("<f8"),
}


@dataclass(frozen=True)
class GgufTensor:
    """An entry of the tensor table: where the file holds what.

    shape: as NumPy has it, rows first (the table says it the other way round).
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: GGMLQuantizationType
    start: int
    num_bytes: int
    file: mmap.mmap

    @property
    def data(self) -> np.ndarray:
        """A read-only view of the file: floats in `shape`, anything else as bytes, a row's together."""
        dtype = _DTYPES.get(self.tensor_type, np.dtype("u1"))
        numbers = np.frombuffer(self.file, dtype, self.num_bytes // dtype.itemsize, self.start)
        return numbers.reshape(*self.shape[:-1], -1)

    def let_go(self) -> None:
        """Let the system take back the memory that the file has come into; it comes again when it is looked at."""
        first = self.start // mmap.PAGESIZE * mmap.PAGESIZE
        with suppress(OSError):  # a system that does not do it
            self.file.madvise(mmap.MADV_DONTNEED, first, self.start + self.num_bytes - first)

    def rows(self, start: int, stop: int) -> "GgufTensor":
        """Those of its rows as a tensor, for one that has several."""
        of_row = self.num_bytes // self.shape[0]
        shape = (stop - start, *self.shape[1:])
        return replace(self, shape=shape, start=self.start + start * of_row, num_bytes=(stop - start) * of_row)


@dataclass(frozen=True)
class GgufHeader:
    """What one file says.

    metadata: numbers and bool as Python's, arrays of them as NumPy's; texts as the bytes that they are, arrays of texts
    as lists of these.
    """

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """The header of the GGUF file at `path`; tensors stay on disk until used.

    Nothing is allocated on a number's word: counts, lengths, depths and offsets are compared with the file first.
    Raises CheckpointError for a file that is missing, no GGUF, of another version or byte order, damaged, or cut short.
    Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    data = _mapped(path)
    try:
        return _Reader(data).header()
    except _DamageError as damage:
        raise CheckpointError(f"{path}: damaged GGUF file, or cut short at {len(data)} bytes: {damage}") from None
    except _ForeignError as foreign:
        raise CheckpointError(f"{path}: {foreign}") from None


class _DamageError(Exception):
    """A number that cannot be."""


class _ForeignError(Exception):
    """A file of another kind."""


def _mapped(path: Path) -> mmap.mmap:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    start = read_start(path)
    if start[: len(MAGIC)] != MAGIC:
        raise CheckpointError(f"{path}: not a GGUF file; {_described(start)}")
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty by now
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _described(start: bytes) -> str:
    kind = foreign_kind(start)
    if kind:
        return f"it is {kind}"
    magic = start[: len(MAGIC)]
    if magic in _OLDER_MAGICS:
        return f"it starts with {magic!r}, as llama.cpp's files did before GGUF; convert the model again"
    return f"it starts with {magic!r} instead of {MAGIC!r}"


class _Reader:
    """Reads from the start of `data` on; every step is checked against its end."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.at = len(MAGIC)

    def header(self) -> GgufHeader:
        self._check_version()
        num_tensors, num_entries = self._number("<Q"), self._number("<Q")
        self._check_room("tensors", num_tensors, _LEAST_TENSOR)
        self._check_room("metadata entries", num_entries, _LEAST_ENTRY)
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._text("a key").decode(errors=_MARKED)
            if key in metadata:
                raise _DamageError(f"the key {shortened(key)} is there twice")
            metadata[key] = self._value(key, self._number("<I"))
        return GgufHeader(metadata, self._tensors(num_tensors, metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)))

    def _check_version(self):
        version = self._number("<I")
        if version in VERSIONS:
            return
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise _ForeignError("this GGUF file has the byte order of big-endian machines, which is not read")
        advice = "; it was written in August 2023, convert the model again" if version == 1 else ""
        raise _ForeignError(f"GGUF version {version}; allowed: {', '.join(map(str, VERSIONS))}{advice}")

    def _number(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from(form, self.data, self.at)
        except struct.error:
            raise _DamageError(f"the header goes on behind the end at {self.at}") from None
        self.at += struct.calcsize(form)
        return value

    def _check_room(self, what: str, count: int, least: int):
        left = len(self.data) - self.at
        if count * least > left:
            raise _DamageError(f"{count} {what} need {count * least} bytes or more, and {left} are left")

    def _text(self, what: str) -> bytes:
        length = self._number("<Q")
        self._check_room(f"bytes of {what}", length, 1)
        self.at += length
        return self.data[self.at - length : self.at]

    def _value(self, key: str, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self._text(f"the text of {shortened(key)}")
        if kind == _ARRAY:
            if depth == DEEPEST_ARRAY:
                raise _DamageError(f"the arrays of {shortened(key)} lie in each other more than {DEEPEST_ARRAY} deep")
            return self._array(key, depth)
        return self._numbers(key, kind, 1)[0].item()

    def _array(self, key: str, depth: int) -> Any:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == _STRING:
            return self._texts(key, count)
        if kind == _ARRAY:
            self._check_room(f"arrays of {shortened(key)}", count, _LEAST_ARRAY)
            return [self._value(key, kind, depth + 1) for _ in range(count)]
        return self._numbers(key, kind, count)

    def _numbers(self, key: str, kind: int, count: int) -> np.ndarray:
        if kind not in _NUMBERS:
            raise _DamageError(f"{shortened(key)} is of kind {kind}, which GGUF does not have")
        dtype = np.dtype("u1" if _NUMBERS[kind] == "?" else f"<{_NUMBERS[kind]}")
        self._check_room(f"numbers of {shortened(key)}", count, dtype.itemsize)
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values != 0 if _NUMBERS[kind] == "?" else values

    def _texts(self, key: str, count: int) -> list[bytes]:
        self._check_room(f"texts of {shortened(key)}", count, _LEAST_STRING)
        # A vocabulary has hundreds of thousands of them: no call of our own in this loop.
        data, at, end = self.data, self.at, len(self.data)
        length_at = struct.Struct("<Q").unpack_from
        texts = []
        for _ in range(count):
            if at + 8 > end:
                break
            start = at + 8
            at = start + length_at(data, at)[0]
            if at > end:
                break
            texts.append(data[start:at])
        if len(texts) < count:
            raise _DamageError(f"{shortened(key)}[{len(texts)}] goes on behind the end")
        self.at = at
        return texts

    def _tensors(self, count: int, alignment: Any) -> dict[str, GgufTensor]:
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise _DamageError(f"{ALIGNMENT} is {shortened(alignment)}; it must be a power of two")
        entries = [self._entry() for _ in range(count)]
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise _DamageError(f"tensor {name} is there twice")
            if offset % alignment:
                raise _DamageError(f"tensor {name} begins at {offset}, which is no multiple of {alignment}")
            num_bytes = _num_bytes(name, shape, kind)
            if start + offset + num_bytes > len(self.data):
                raise _DamageError(f"tensor {name} of {num_bytes} bytes goes on behind the end")
            tensors[name] = GgufTensor(name, shape, kind, start + offset, num_bytes, self.data)
        _check_apart(tensors)
        return tensors

    def _entry(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self._text("a tensor's name")
        text = name.decode(errors=_MARKED)
        if not text.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise _DamageError(f"{shortened(name)} is no name of a tensor")
        num_dimensions = self._number("<I")
        if not 1 <= num_dimensions <= MOST_DIMENSIONS:
            raise _DamageError(f"tensor {text} has {num_dimensions} dimensions; allowed: 1 to {MOST_DIMENSIONS}")
        shape = tuple(self._number("<Q") for _ in range(num_dimensions))[::-1]
        kind = self._number("<I")
        if kind not in GGML_QUANT_SIZES:
            raise _DamageError(f"tensor {text} is of type {kind}, which is not known here")
        return text, shape, GGMLQuantizationType(kind), self._number("<Q")


def _num_bytes(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if not all(shape) or shape[-1] % block:
        raise _DamageError(
            f"tensor {name} has shape {shape}; each must be at least 1, for {kind.name} the last a multiple of {block}"
        )
    return math.prod(shape) // block * block_bytes


def _check_apart(tensors: dict[str, GgufTensor]):
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.start)
    for tensor, following in pairwise(in_order):
        if tensor.start + tensor.num_bytes > following.start:
            raise _DamageError(f"tensors {tensor.name} and {following.name} lie over each other")
