"""Parameters of MindSpore `.ckpt` files under the names that the files give them."""

from pathlib import Path

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.bfloat16 import with_common_bfloat16
from mindspore_paged.weights.ckpt_file import CkptFile
from mindspore_paged.weights.tensor_source import along
from mindspore_paged.wording import shown


class MindSporeFiles:
    """The parameters of several `.ckpt` files, which are memory-mapped and read one parameter at a time.

    Raises CheckpointError for a damaged file, and for a parameter that two files hold.
    """

    def __init__(self, paths: list[Path]):
        self._files: dict[str, CkptFile] = {}
        for path in paths:
            file = CkptFile(path)
            for name in file.parameters:
                if name in self._files:
                    raise CheckpointError(f"{path}: parameter {shown(name)} is in another file of the checkpoint too")
                self._files[name] = file

    def names(self) -> list[str]:
        """The names of all parameters."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return self._files[name].parameters[name].shape

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns; raises CheckpointError for a type that is not read."""
        return self._files[name].dtype(name)

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, as an array of its own."""
        return with_common_bfloat16(np.array(self._files[name].values(name)))

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis, as an array of its own; nothing else is read."""
        part = self._files[name].values(name)[along(axis, start, stop)]
        return with_common_bfloat16(np.array(part, order="C"))
