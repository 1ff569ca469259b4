"""One rank's part of a checkpoint: of each tensor only that part is read."""

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.weight_format import INT8, WeightFormat
from mindspore_paged.tensor_parallel import Cut, Cuts
from mindspore_paged.weights.packing import BlockSource
from mindspore_paged.weights.stored_rows import RowSource, StoredRows
from mindspore_paged.weights.tensor_source import Checkpoint, along


class ShardedCheckpoint:
    """A Checkpoint whose tensors are the parts of those of `checkpoint` that `cuts` gives a rank.

    A part shorter than `Cut.length` (of a vocabulary that does not divide) is filled up with zeros. Everything else is
    the whole's. `shape` raises CheckpointError for a tensor that is not as long as the model that `cuts` was made for:
    its part might have the right shape for the wrong reason.
    """

    def __init__(self, checkpoint: Checkpoint, cuts: Cuts):
        self.path = checkpoint.path
        self.model_config = checkpoint.model_config
        self.tokenizer_source = checkpoint.tokenizer_source
        self._whole = checkpoint
        self._cuts = cuts

    def names(self) -> list[str]:
        """The names of all tensors."""
        return self._whole.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        shape, cut = self._whole.shape(name), self._cuts.of(name)
        if cut is None:
            return shape
        self._check_length(name, shape, cut)
        return (*shape[: cut.axis], cut.length, *shape[cut.axis + 1 :])

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        return self._whole.dtype(name)

    def read(self, name: str) -> np.ndarray:
        """The rank's part of the tensor called `name`, as an array of its own."""
        cut = self._cuts.of(name)
        if cut is None:
            return self._whole.read(name)
        return self.read_part(name, cut.axis, 0, cut.length)

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis, as an array of its own."""
        cut = self._cuts.of(name)
        if cut is None:
            return self._whole.read_part(name, axis, start, stop)
        if axis != cut.axis:
            return np.array(self.read(name)[along(axis, start, stop)], order="C")
        held = min(stop, cut.stop - cut.start)
        if held == stop:
            return self._whole.read_part(name, axis, cut.start + start, cut.start + stop)
        shape = list(self.shape(name))
        shape[axis] = stop - start
        part = np.zeros(shape, self.dtype(name))
        if held > start:
            part[along(axis, 0, held - start)] = self._whole.read_part(name, axis, cut.start + start, cut.start + held)
        return part

    def block_format(self, name: str, start: int = 0, stop: int | None = None) -> WeightFormat | None:
        """The blocks of the rank's part of the tensor called `name`, if the whole checkpoint has it as such.

        Where a rank's columns cut blocks they become int8, if these divide them.
        """
        if not isinstance(self._whole, BlockSource) or self._whole.block_format(name) is None:
            return None
        form = self._stored_format(name) or INT8
        return form if form.divides(start, self.shape(name)[-1] if stop is None else stop) else None

    def float_dtype(self, name: str) -> np.dtype:
        """The floats for a tensor that no blocks hold."""
        return self._whole.float_dtype(name) if isinstance(self._whole, BlockSource) else self.dtype(name)

    def read_blocks(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """Blocks of the rank's part; those of rows beyond the whole's are zeros."""
        cut, form = self._cuts.of(name), self.block_format(name)
        if cut is None:
            return self._whole.read_blocks(name, axis, start, stop)
        if self._stored_format(name) is None:
            own = form.pack(self.read(name))
        else:
            own = self._whole.read_blocks(name, cut.axis, cut.start, cut.stop)
        if cut.axis == 0:
            own = np.pad(own, ((0, cut.length - len(own)), (0, 0)))
        return own[start:stop] if axis == 0 else own[:, form.row_bytes(start) : form.row_bytes(stop)]

    def stored_rows(self, name: str) -> StoredRows | None:
        """The rank's part of the rows that the whole checkpoint can show; None where it is not all there as it is."""
        stored = self._whole.stored_rows(name) if isinstance(self._whole, RowSource) else None
        cut = self._cuts.of(name)
        return stored if stored is None or cut is None else stored.part_of(cut)

    def _stored_format(self, name: str) -> WeightFormat | None:
        """The blocks that the whole checkpoint has of the rank's columns; None where these would be cut."""
        cut = self._cuts.of(name)
        return self._whole.block_format(name, *((cut.start, cut.stop) if cut and cut.axis else ()))

    def _check_length(self, name: str, shape: tuple[int, ...], cut: Cut) -> None:
        needed = self._cuts.whole_length(name)
        if len(shape) <= cut.axis or shape[cut.axis] != needed:
            what = "columns" if cut.axis else "rows"
            raise CheckpointError(f"{self.path}: tensor {name} has shape {shape}; the model needs {needed} {what}")
