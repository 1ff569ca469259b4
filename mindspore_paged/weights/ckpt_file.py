"""A MindSpore `.ckpt` file: which parameters it holds, and where in the file their values lie.

It is one protobuf message, of which only the frame is read here, so that values stay on disk until they are used:
Checkpoint {repeated Value value = 1}, Value {tag = 1, TensorProto tensor = 2}, TensorProto {repeated int64 dims = 1,
string tensor_type = 2, bytes tensor_content = 3}. A large parameter is several values of one tag, one after another.
Source: checkpoint_pb2 and _load_ckpt_into_param_dict of mindspore.train (MindSpore 2.9).
"""

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.foreign_file import foreign_kind
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.wording import shortened, shown

_DTYPES = {
    "Float64": np.dtype(np.float64),
    "Float32": np.dtype(np.float32),
    "Float16": np.dtype(np.float16),
    "BFloat16": BFLOAT16,
    "Int64": np.dtype(np.int64),
    "Int32": np.dtype(np.int32),
    "Int16": np.dtype(np.int16),
    "Int8": np.dtype(np.int8),
    "UInt64": np.dtype(np.uint64),
    "UInt32": np.dtype(np.uint32),
    "UInt16": np.dtype(np.uint16),
    "UInt8": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}
_VALUE, _TAG, _TENSOR, _DIMS, _TYPE, _CONTENT = 1, 1, 2, 1, 2, 3
_VARINT, _BYTES, _WIDTHS = 0, 2, {1: 8, 5: 4}
_CRC_MARK, _CRC_BYTES = b"crc_num", 10
_MOST_VALUES, _LONGEST_NAME, _MOST_DIMS = 2**20, 1024, 8


@dataclass(frozen=True)
class Parameter:
    """One parameter: `kind` as MindSpore calls its type, and the (start, stop) of its bytes in the file."""

    kind: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]


class CkptFile:
    """The parameters of one file by name; raises CheckpointError for a file that is missing or damaged."""

    def __init__(self, path: Path):
        self.path = path
        self._bytes = _mapped(path)
        self.parameters: dict[str, Parameter] = {}
        last = None
        for name, parameter in self._values():
            if name in self.parameters:
                before = self.parameters[name]
                if name != last or (before.kind, before.shape) != (parameter.kind, parameter.shape):
                    raise self._damaged(f"parameter {shown(name)} is there twice")
                parameter = replace(parameter, pieces=before.pieces + parameter.pieces)
            self.parameters[name] = parameter
            last = name
        for name, parameter in self.parameters.items():
            self._check_size(name, parameter)

    def dtype(self, name: str) -> np.dtype:
        """The type of a parameter's values; raises CheckpointError for one that is not read."""
        kind = self.parameters[name].kind
        if kind not in _DTYPES:
            raise CheckpointError(
                f"{self.path}: parameter {shown(name)} is of type {shortened(kind)}, which is not read"
            )
        return _DTYPES[kind]

    def values(self, name: str) -> np.ndarray:
        """The values of a parameter, a read-only view of the file where they are in one piece; raises as `dtype`."""
        dtype, parameter = self.dtype(name), self.parameters[name]
        pieces = [np.frombuffer(self._bytes, np.uint8, stop - start, start) for start, stop in parameter.pieces]
        flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return flat.view(dtype).reshape(parameter.shape)

    def _values(self) -> Iterator[tuple[str, Parameter]]:
        stop = len(self._bytes)
        mark = stop - _CRC_BYTES - len(_CRC_MARK)
        if self._bytes[mark : stop - _CRC_BYTES] == _CRC_MARK:
            stop = mark
        for count, (number, place) in enumerate(self._fields(0, stop)):
            if number != _VALUE or count >= _MOST_VALUES:
                raise self._damaged("it holds something else than parameters, or too many")
            fields = dict(self._message(place))
            if _TAG not in fields or _TENSOR not in fields:
                raise self._damaged("a value lacks its name or its tensor")
            yield self._text(fields[_TAG]), self._tensor(fields[_TENSOR])

    def _tensor(self, message: int | tuple[int, int]) -> Parameter:
        dims, kind, content = [], "", None
        for number, place in self._message(message):
            if number == _DIMS:
                dims += [place] if isinstance(place, int) else self._packed(*place)
            elif number == _TYPE:
                kind = self._text(place)
            elif number == _CONTENT:
                content = place
        if content is None or isinstance(content, int) or len(dims) > _MOST_DIMS:
            raise self._damaged("a tensor without values, or of too many dimensions")
        return Parameter(kind, () if dims == [0] else tuple(dims), (content,))

    def _check_size(self, name: str, parameter: Parameter) -> None:
        held = sum(stop - start for start, stop in parameter.pieces)
        if parameter.kind in _DTYPES and held != math.prod(parameter.shape) * _DTYPES[parameter.kind].itemsize:
            raise self._damaged(
                f"parameter {shown(name)} has {held} bytes, its shape is {shortened(parameter.shape)} of "
                f"{parameter.kind}"
            )

    def _message(self, place: int | tuple[int, int]) -> Iterator[tuple[int, int | tuple[int, int]]]:
        if isinstance(place, int):
            raise self._damaged("a number in the place of a message")
        return self._fields(*place)

    def _fields(self, start: int, stop: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
        """The fields of the message from start to stop: their numbers, and values or where their bytes lie."""
        while start < stop:
            key, start = self._varint(start, stop)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, start = self._varint(start, stop)
                yield number, value
                continue
            if wire == _BYTES:
                length, start = self._varint(start, stop)
            elif wire in _WIDTHS:
                length = _WIDTHS[wire]
            else:
                raise self._damaged(f"no message at byte {start}")
            if length > stop - start:
                raise self._damaged(
                    f"cut short: {length} bytes are to follow byte {start}, and {stop - start} are there"
                )
            yield number, (start, start + length)
            start += length

    def _varint(self, start: int, stop: int) -> tuple[int, int]:
        value = 0
        for count, place in enumerate(range(start, min(start + 10, stop))):
            byte = self._bytes[place]
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                return value, place + 1
        raise self._damaged(f"no number at byte {start}")

    def _packed(self, start: int, stop: int) -> list[int]:
        numbers = []
        while start < stop and len(numbers) <= _MOST_DIMS:
            number, start = self._varint(start, stop)
            numbers.append(number)
        return numbers

    def _text(self, place: int | tuple[int, int]) -> str:
        if isinstance(place, int) or place[1] - place[0] > _LONGEST_NAME:
            raise self._damaged("a name that is no text, or too long")
        try:
            return self._bytes[place[0] : place[1]].decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a name that is not UTF-8") from None

    def _damaged(self, why: str) -> CheckpointError:
        kind = foreign_kind(self._bytes[:256]) or f"damaged MindSpore checkpoint ({why})"
        return CheckpointError(f"{self.path}: {kind}")


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: damaged MindSpore checkpoint (it is empty)")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
