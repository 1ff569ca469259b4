"""Tensors of one or more safetensors files under the names that the files give them."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import read_json_object
from mindspore_paged.weights.bfloat16 import BFLOAT16, with_common_bfloat16
from mindspore_paged.weights.tensor_source import along

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
}


class SafetensorsFiles:
    """The tensors of several safetensors files, which are memory-mapped and read one tensor at a time.

    Raises CheckpointError for a file that is missing or damaged, and for a tensor that two files hold.
    """

    def __init__(self, paths: list[Path]):
        self._files = {}
        for path in paths:
            file = _open(path)
            for name in file.keys():  # noqa: SIM118 (no mapping: it has keys() only)
                if name in self._files:
                    raise CheckpointError(f"{path}: tensor {name} is in another file of the checkpoint too")
                self._files[name] = file

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns; that of bytes for a type that NumPy has not."""
        return _DTYPES.get(self._files[name].get_slice(name).get_dtype(), np.dtype(np.void))

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""
        return with_common_bfloat16(self._files[name].get_tensor(name))

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis, as an array of its own; nothing else is read."""
        return with_common_bfloat16(self._files[name].get_slice(name)[along(axis, start, stop)])


def indexed_files(index: Path) -> list[Path]:
    """The shards that `model.safetensors.index.json` lists.

    Raises CheckpointError where the index is damaged, a shard is missing, or one lacks a tensor that the index
    promises.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: not an index of safetensors files; it lacks a weight_map of names to files")
    shards = {file: {name for name in weight_map if weight_map[name] == file} for file in weight_map.values()}
    for file, promised in sorted(shards.items()):
        path = index.parent / file
        if not path.is_file():
            raise CheckpointError(f"{path}: this shard, listed in {index.name}, is missing")
        lacking = sorted(promised - set(_open(path).keys()))
        if lacking:
            raise CheckpointError(f"{path}: lacks tensor {lacking[0]}, which {index.name} says is there")
    return [index.parent / file for file in sorted(shards)]


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error})") from error
