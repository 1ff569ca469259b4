"""Checkpoints that were saved by several ranks: a folder for each, rank_0, rank_1, …, with the parts of that rank."""

import re
from pathlib import Path

from mindspore_paged.errors import CheckpointError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import spec_of
from mindspore_paged.tensor_parallel import Cut, Cuts, TensorParallel
from mindspore_paged.weights.tensor_source import TensorSource


def has_rank_folders(path: Path) -> bool:
    """Whether `path` is a folder that holds folders called rank_N."""
    return path.is_dir() and bool(_ranks(path))


def rank_folder(path: Path, parallel: TensorParallel) -> Path:
    """The folder of one rank in `path`; raises CheckpointError unless there is just one for each of the ranks.

    Every rank looks for all of the folders, so that all of them refuse the checkpoint, and none waits for another.
    """
    ranks = _ranks(path)
    if len(ranks) != parallel.size:
        raise CheckpointError(
            f"{path}: holds {len(ranks)} rank folders, but parallel.tensor_parallel_size is {parallel.size}; "
            "the two must be equal"
        )
    for rank in range(parallel.size):
        if rank not in ranks:
            raise CheckpointError(
                f"{path / f'rank_{rank}'}: no such folder; {parallel.size} ranks need rank_0 to "
                f"rank_{parallel.size - 1}"
            )
    return path / f"rank_{parallel.rank}"


class RankFolderCuts(Cuts):
    """Of the tensors in a rank's folder only those that were saved whole are still to be cut.

    MindFormers saves embedding and head whole with `vocab_emb_dp`, and where the ranks do not divide the vocabulary;
    the biases of what is summed over ranks always.
    """

    def __init__(self, parallel: TensorParallel, config: ModelConfig, saved: TensorSource):
        super().__init__(parallel, config)
        names = set(saved.names())
        tables = [weight.name for weight in spec_of(config).weights if "vocab" in weight.shape and weight.name in names]
        self._whole_tables = {name for name in tables if saved.shape(name)[:1] == (config.vocab_size,)}

    def of(self, name: str) -> Cut | None:
        """The part of tensor `name`, or None where the folder holds just that part."""
        weight = self.spec.find(name)
        is_whole = name in self._whole_tables or (weight is not None and weight.is_summed)
        return super().of(name) if is_whole else None


def _ranks(path: Path) -> set[int]:
    matches = [re.fullmatch(r"rank_(0|[1-9]\d*)", folder.name) for folder in path.iterdir() if folder.is_dir()]
    return {int(match[1]) for match in matches if match}
