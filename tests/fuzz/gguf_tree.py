"""A GGUF file as a tree that can lie: every count, length, kind and offset may be another than the true one."""

import copy
import struct
from dataclasses import dataclass
from typing import Any

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
_FORMS = dict(
    zip((UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, UINT64, INT64, FLOAT64), "BbHhIifBQqd", strict=True)
)
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30


@dataclass
class Text:
    """Bytes with their length before them, which is the true one unless `length` is given."""

    content: bytes
    length: int | None = None

    def pack(self) -> bytes:
        length = len(self.content) if self.length is None else self.length
        return struct.pack("<Q", length % 2**64) + self.content


@dataclass
class Array:
    """Values of one kind; count as `Text.length`."""

    kind: int
    items: list[Any]
    count: int | None = None

    def pack(self) -> bytes:
        count = len(self.items) if self.count is None else self.count
        header = struct.pack("<IQ", self.kind % 2**32, count % 2**64)
        return header + b"".join(pack_value(self.kind, item) for item in self.items)


@dataclass
class Field:
    key: Text
    kind: int
    value: Any

    def pack(self) -> bytes:
        return self.key.pack() + struct.pack("<I", self.kind % 2**32) + pack_value(self.kind, self.value)


@dataclass
class Tensor:
    """offset: None for where `content` is put."""

    name: Text
    dims: list[int]
    kind: int
    content: bytes
    offset: int | None = None
    num_dims: int | None = None


@dataclass
class GgufTree:
    fields: list[Field]
    tensors: list[Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_fields: int | None = None
    alignment: int = 32
    tail: bytes = b""

    def copy(self) -> "GgufTree":
        return copy.deepcopy(self)

    def find(self, key: str) -> Field | None:
        return next((each for each in self.fields if each.key.content == key.encode()), None)

    def pack(self) -> bytes:
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_fields = len(self.fields) if self.num_fields is None else self.num_fields
        parts = [self.magic, struct.pack("<IQQ", self.version % 2**32, num_tensors % 2**64, num_fields % 2**64)]
        parts += [each.pack() for each in self.fields]
        data = bytearray()
        for tensor in self.tensors:
            data += bytes(-len(data) % self.alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            num_dims = len(tensor.dims) if tensor.num_dims is None else tensor.num_dims
            dims = b"".join(struct.pack("<Q", size % 2**64) for size in tensor.dims)
            header = struct.pack("<I", num_dims % 2**32) + dims
            parts.append(tensor.name.pack() + header + struct.pack("<IQ", tensor.kind % 2**32, offset % 2**64))
            data += tensor.content
        header = b"".join(parts)
        return header + bytes(-len(header) % self.alignment) + bytes(data) + self.tail


def pack_value(kind: int, value: Any) -> bytes:
    """Bytes of a value; what does not go with its kind is written as it is."""
    if isinstance(value, Text | Array):
        return value.pack()
    if isinstance(value, bytes):
        return value
    form = _FORMS.get(kind)
    if form is None:
        return Text(str(value).encode("utf-8", "surrogatepass")).pack()
    if form in "fd":
        try:
            return struct.pack("<" + form, value)
        except OverflowError:
            return struct.pack("<" + form, float("inf"))
    width = struct.calcsize(form)
    return (int(value) % 2 ** (8 * width)).to_bytes(width, "little")


def field_of(key: str, value: Any) -> Field:
    """A field as the usual writers make it: whole numbers uint32, floats float32, lists by their first item."""
    kind = _kind_of(value)
    if kind == ARRAY:
        inner = _kind_of(value[0]) if value else INT32
        inner = INT32 if inner == UINT32 else inner
        items = [Text(item.encode()) if isinstance(item, str) else item for item in value]
        return Field(Text(key.encode()), ARRAY, Array(inner, items))
    return Field(Text(key.encode()), kind, Text(value.encode()) if kind == STRING else value)


def _kind_of(value: Any) -> int:
    kinds = {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING, list: ARRAY}
    return kinds[type(value)]
