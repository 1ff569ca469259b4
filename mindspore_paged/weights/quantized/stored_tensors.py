"""The tensors that a quantized weight is made of: found, and compared with each other before any is used."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.quantized.grouped_weight import groups_of
from mindspore_paged.weights.tensor_source import TensorSource
from mindspore_paged.wording import shown

SCALE_DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32))
INT32 = (np.dtype(np.int32),)
_INDEX_DTYPES = (np.dtype(np.int32), np.dtype(np.int64))


class StoredTensors:
    """The tensors of `source`, whose folder is `path`; what does not fit raises CheckpointError that names it."""

    def __init__(self, path: Path, source: TensorSource):
        self.path, self._source = path, source
        self._names = set(source.names())

    def stems(self, suffix: str) -> Iterator[str]:
        """What stands before `suffix` in the names that end with it."""
        return (name.removesuffix(suffix) for name in self._source.names() if name.endswith(suffix))

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._names

    def dtype(self, name: str) -> np.dtype:
        """The dtype of a tensor."""
        return self._source.dtype(name)

    def shape(
        self, name: str, dtypes: tuple[np.dtype, ...], needed: tuple[int | None, ...] | None = None
    ) -> tuple[int, ...]:
        """The shape of a tensor, which must be of one of `dtypes`; None in `needed` is any length, above 0."""
        if name not in self._names:
            raise CheckpointError(f"{self.path}: tensor {shown(name)} is missing")
        dtype, shape = self._source.dtype(name), self._source.shape(name)
        if dtype not in dtypes:
            allowed = ", ".join(map(str, dtypes))
            raise CheckpointError(f"{self.path}: tensor {shown(name)} is of type {dtype}; allowed: {allowed}")
        if needed is not None and not _fits(shape, needed):
            wanted = ", ".join("any" if length is None else str(length) for length in needed)
            raise CheckpointError(f"{self.path}: tensor {shown(name)} has shape {shape}; needed: ({wanted})")
        return shape

    def read(self, name: str) -> np.ndarray:
        """A whole tensor."""
        return self._source.read(name)

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What a tensor has from start to stop of one axis."""
        return self._source.read_part(name, axis, start, stop)

    def groups(self, stem: str, name: str | None, columns: int, num_groups: int, group_size: int) -> np.ndarray:
        """The group of each column of the weight `stem`: what tensor `name` says, or else group_size neighbours.

        A tensor that says -1 says nothing, a group_size of -1 is all columns.
        """
        if name is not None and self.has(name):
            self.shape(name, _INDEX_DTYPES, (columns,))
            stored = self.read(name)
            if stored.min() >= 0:
                if stored.max() >= num_groups:
                    raise CheckpointError(
                        f"{self.path}: tensor {shown(name)} holds {stored.max()}; there are {num_groups} groups"
                    )
                return stored.astype(np.int32)
        group_size = columns if group_size <= 0 else group_size
        if -(-columns // group_size) != num_groups:
            raise CheckpointError(
                f"{self.path}: {shown(stem)} has {num_groups} groups of scales; {columns} columns in groups of "
                f"{group_size} need {-(-columns // group_size)}"
            )
        return groups_of(columns, group_size)


def _fits(shape: tuple[int, ...], needed: tuple[int | None, ...]) -> bool:
    return len(shape) == len(needed) and all(
        length == want or (want is None and length > 0) for length, want in zip(shape, needed, strict=True)
    )
