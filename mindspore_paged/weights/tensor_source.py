"""Where weights come from: the interface that every format has, and the one that the model is filled through."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mindspore_paged.model_config import ModelConfig


class TensorSource(Protocol):
    """Tensors under any names, read one at a time, whole or in part."""

    def names(self) -> list[str]:
        """The names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, as an array of its own."""

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop (at least start + 1) of one axis, as an array of its own.

        Where the format allows it, nothing else is read from disk or held in memory.
        """


class Checkpoint(TensorSource, Protocol):
    """Tensors of one model under Hugging Face's names, read one at a time.

    path: the file or folder it was opened from.
    model_config: the model that the checkpoint describes, or None where it holds bare weights.
    tokenizer_source: what `load_tokenizer` reads the tokenizer from, or None where there can be none.
    """

    path: Path
    model_config: ModelConfig | None
    tokenizer_source: Any


def along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    """The index of everything from start to stop of one axis."""
    return (*[slice(None)] * axis, slice(start, stop))


def widened(start: int, stop: int, unit: int) -> tuple[int, int]:
    """The smallest range of whole units around start to stop."""
    return start // unit * unit, -(-stop // unit) * unit
