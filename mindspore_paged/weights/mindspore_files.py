"""Parameters of MindSpore `.ckpt` files under the names that the files give them."""

from pathlib import Path

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.bfloat16 import BFLOAT16, with_common_bfloat16
from mindspore_paged.weights.tensor_source import along


class MindSporeFiles:
    """The parameters of several `.ckpt` files.

    MindSpore reads such a file only as a whole, so all of them are in memory at once; safetensors are better for
    large models. Raises CheckpointError for a damaged file, and for a parameter that two files hold.
    """

    def __init__(self, paths: list[Path]):
        self._parameters = {}
        for path in paths:
            parameters = _load(path)
            twice = sorted(parameters.keys() & self._parameters.keys())
            if twice:
                raise CheckpointError(f"{path}: parameter {twice[0]} is in another file of the checkpoint too")
            self._parameters.update(parameters)

    def names(self) -> list[str]:
        """The names of all parameters."""
        return list(self._parameters)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return tuple(self._parameters[name].shape)

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        kind = str(self._parameters[name].dtype).lower()
        return BFLOAT16 if kind == "bfloat16" else np.dtype(kind)

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, as an array of its own."""
        return with_common_bfloat16(np.array(self._parameters[name].asnumpy()))

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis, as an array of its own."""
        part = self._parameters[name].asnumpy()[along(axis, start, stop)]
        return with_common_bfloat16(np.array(part, order="C"))


def _load(path: Path) -> dict:
    from mindspore import load_checkpoint  # takes seconds to import: only those who open a .ckpt pay

    try:
        return load_checkpoint(str(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged MindSpore checkpoint ({error})") from error
