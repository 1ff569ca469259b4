"""The weights of an exported model: one rank's part, stored under the names and in the type that the graph has."""

import errno
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mindspore_paged.files import whole_file
from mindspore_paged.mindir.folder import MindIRFolder
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.safetensors_files import SafetensorsFiles

BYTES_OF_A_FILE = 2**30
"""A file takes no further tensor once it has this much; a tensor is never split."""


class ExportedCheckpoint(SafetensorsFiles):
    """A Checkpoint of the model in an exported folder; raises CheckpointError as the folder does."""

    def __init__(self, folder: MindIRFolder):
        super().__init__(folder.weight_files)
        self.folder = folder
        self.path = folder.path
        self.model_config: ModelConfig = folder.manifest.model
        self.tokenizer_source = folder.tokenizer


def write_weights(folder: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write tensors to safetensors files in a new folder, holding one file's worth of them in memory.

    Raises OSError that names the file that cannot be written.
    """
    folder.mkdir()
    held: dict[str, np.ndarray] = {}
    num_files = 0
    for name, values in tensors:
        held[name] = values
        if sum(each.nbytes for each in held.values()) >= BYTES_OF_A_FILE:
            _save(held, folder / f"{num_files:05}.safetensors")
            held, num_files = {}, num_files + 1
    if held:
        _save(held, folder / f"{num_files:05}.safetensors")


def _save(tensors: dict[str, np.ndarray], path: Path) -> None:
    with whole_file(path) as unfinished:
        try:
            save_file(tensors, unfinished)
        except SafetensorError as error:  # of a full disk too; its text holds the system's own
            raise OSError(errno.EIO, f"the weights cannot be written: {error}", str(path)) from None
