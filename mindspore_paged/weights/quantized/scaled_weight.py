"""A weight that a file holds as numbers of 8 bits in its own shape, with scales beside it."""

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.quantized.grouped_weight import GroupedWeight, Numbers, Part, groups_of
from mindspore_paged.weights.quantized.stored_tensors import SCALE_DTYPES, StoredTensors
from mindspore_paged.weights.safetensors_files import FLOAT8
from mindspore_paged.wording import shown

INT8 = np.dtype(np.int8)
_KINDS = {INT8: Numbers.INT8, FLOAT8: Numbers.FLOAT8}


class ScaledWeight(GroupedWeight):
    """A weight [rows, columns] of int8 or float8_e4m3fn, times one scale, one for each row, group of a row, or tile.

    scale: the name of the scales' tensor; zero_point: of one in its shape, int8, that may be there. tiles: rows and
    columns that a scale may stand for, where these do not follow from the tensors' shapes.
    """

    def __init__(
        self,
        stored: StoredTensors,
        stem: str,
        scale: str,
        zero_point: str = "",
        tiles: tuple[tuple[int, int], ...] = (),
    ):
        self._stored, self._weight, self._scale = stored, f"{stem}.weight", scale
        self.shape = stored.shape(self._weight, tuple(_KINDS), (None, None))
        self.numbers = _KINDS[stored.dtype(self._weight)]
        shape = stored.shape(scale, SCALE_DTYPES)
        self.scale_dtype = stored.dtype(scale)
        tile = _tile(self.shape, shape, tiles)
        if tile is None:
            raise CheckpointError(
                f"{stored.path}: tensor {shown(scale)} has shape {shape}, which is not that of scales for a weight of "
                f"shape {self.shape}"
            )
        self._rows_of_tile = tile[0]
        self.groups = groups_of(self.shape[1], tile[1])
        self._zero_point = zero_point if stored.has(zero_point) else ""
        if self._zero_point:
            stored.shape(zero_point, (INT8,), shape)
        self.has_zeros = bool(self._zero_point) and bool(stored.read(zero_point).any())
        self.tensors = tuple(name for name in (self._weight, scale, self._zero_point) if name)

    def part(self, axis: int, start: int, stop: int) -> Part:
        """What the weight has from start to stop of one axis."""
        numbers = self._stored.read_part(self._weight, axis, start, stop)
        if self.numbers is Numbers.FLOAT8:
            numbers = numbers.view(np.uint8)
        rows = np.arange(start, stop) if axis == 0 else np.arange(self.shape[0])
        tiles = rows // self._rows_of_tile
        return Part(
            numbers,
            self._of_tiles(self._scale)[tiles].astype(np.float32),
            self._of_tiles(self._zero_point)[tiles] if self.has_zeros else None,
        )

    def _of_tiles(self, name: str) -> np.ndarray:
        """A tensor with a number for each tile, [rows of tiles, columns of tiles]."""
        return self._stored.read(name).reshape(-1, int(self.groups[-1]) + 1)


def _tile(
    shape: tuple[int, int], scales: tuple[int, ...], tiles: tuple[tuple[int, int], ...]
) -> tuple[int, int] | None:
    """The rows and columns that a scale stands for; None where the shapes do not go together."""
    rows, columns = shape
    for tile in tiles:
        if scales == (-(-rows // tile[0]), -(-columns // tile[1])):
            return tile
    whole = {(): (rows, columns), (1,): (rows, columns), (1, 1): (rows, columns), (rows,): (1, columns)}
    if scales in whole:
        return whole[scales]
    if len(scales) == 2 and scales[0] == rows and scales[1] and columns % scales[1] == 0:
        return 1, columns // scales[1]
    return None
