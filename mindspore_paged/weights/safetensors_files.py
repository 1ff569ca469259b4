"""Tensors of one or more safetensors files under the names that the files give them."""

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.foreign_file import foreign_kind
from mindspore_paged.formats.hf_files import read_json_object
from mindspore_paged.weights.bfloat16 import BFLOAT16, with_common_bfloat16
from mindspore_paged.weights.tensor_source import along
from mindspore_paged.wording import one_line, shown

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": FLOAT8,
}
_READ = ", ".join(_DTYPES)


MOST_HEADER_BYTES = 16 * 2**20
"""Of the table of tensors that a file begins with; some hundred bytes a tensor are usual."""


class SafetensorsFiles:
    """The tensors of several safetensors files, which are memory-mapped and read one tensor at a time.

    Raises CheckpointError for a file that is missing or damaged, and for a tensor that two files hold.
    """

    def __init__(self, paths: list[Path]):
        self._files: dict[str, safe_open] = {}
        self._paths: dict[str, Path] = {}
        self._starts: dict[Path, dict[str, int]] = {}
        for path in paths:
            file = _open(path)
            for name in file.keys():  # noqa: SIM118 (no mapping: it has keys() only)
                if name in self._files:
                    raise CheckpointError(f"{path}: tensor {shown(name)} is in another file of the checkpoint too")
                self._add(name, file, path)

    @classmethod
    def of_index(cls, index: Path) -> "SafetensorsFiles":
        """The tensors that `model.safetensors.index.json` names, each from the shard that it names for it.

        What a shard holds beside these is no part of the checkpoint. Raises CheckpointError where the index is
        damaged or leaves the folder, a shard is missing, or one lacks a tensor that the index promises.
        """
        files = cls([])
        shards: dict[str, tuple[safe_open, set[str]]] = {}
        for name, shard in _weight_map(index).items():
            path = index.parent / shard
            if shard not in shards:
                if not path.is_file():
                    raise CheckpointError(f"{path}: this shard, listed in {index.name}, is missing")
                file = _open(path)
                shards[shard] = file, set(file.keys())
            file, held = shards[shard]
            if name not in held:
                raise CheckpointError(f"{path}: lacks tensor {shown(name)}, which {index.name} says is there")
            files._add(name, file, path)
        return files

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns; raises CheckpointError for a type that is not read."""
        kind = self._files[name].get_slice(name).get_dtype()
        if kind not in _DTYPES:
            raise CheckpointError(
                f"{self._paths[name]}: tensor {shown(name)} is of type {kind}, which is not read; read are {_READ}"
            )
        return _DTYPES[kind]

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""
        if self.dtype(name) == FLOAT8:
            return np.array(self._mapped(name))
        return with_common_bfloat16(self._files[name].get_tensor(name))

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis, as an array of its own; nothing else is read."""
        if self.dtype(name) == FLOAT8:
            return np.array(self._mapped(name)[along(axis, start, stop)], order="C")
        return with_common_bfloat16(self._files[name].get_slice(name)[along(axis, start, stop)])

    def _mapped(self, name: str) -> np.ndarray:
        """A tensor of bytes where it lies in its file: of a type that the library cannot give to NumPy."""
        path = self._paths[name]
        if path not in self._starts:
            self._starts[path] = _starts(path)
        return np.memmap(path, np.uint8, "r", self._starts[path][name], self.shape(name)).view(FLOAT8)

    def _add(self, name: str, file: safe_open, path: Path) -> None:
        self._files[name], self._paths[name] = file, path


def _starts(path: Path) -> dict[str, int]:
    """Where each tensor begins in a file whose header the library found sound."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def _weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor; each is the name of a file beside the index."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: not an index of safetensors files; it lacks a weight_map of names to files")
    for file in set(weight_map.values()):
        if not re.fullmatch(r"\w[\w .=+@-]{0,200}\.safetensors", file):
            raise CheckpointError(f"{index}: names {shown(file)} as a shard; it must be a .safetensors file beside it")
    return weight_map


def _open(path: Path) -> safe_open:
    """The safetensors file at `path`, its header checked against its size by the library."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
        size = path.stat().st_size
        header = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{" or header > size - 8:
            kind = foreign_kind(start) or f"damaged safetensors file, or cut short at {size} bytes"
            raise CheckpointError(f"{path}: {kind}")
        if header > MOST_HEADER_BYTES:
            raise CheckpointError(f"{path}: its header has {header} bytes; allowed: {MOST_HEADER_BYTES}")
        return safe_open(path, framework="numpy")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({one_line(error)})") from error
