"""Opening a checkpoint, whatever format it is in."""

from dataclasses import replace
from pathlib import Path

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.foreign_file import foreign_kind, read_start
from mindspore_paged.formats.gguf_file import is_gguf
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.check import check_description
from mindspore_paged.weights.gguf_checkpoint import GgufCheckpoint
from mindspore_paged.weights.hf_config import hf_model_config
from mindspore_paged.weights.mindspore_files import MindSporeFiles
from mindspore_paged.weights.model_tensors import ModelTensors
from mindspore_paged.weights.quantized.methods import quantization_of
from mindspore_paged.weights.quantized.quantized_files import QuantizedFiles
from mindspore_paged.weights.rank_folders import RankFolderCuts, has_rank_folders, rank_folder
from mindspore_paged.weights.safetensors_files import SafetensorsFiles
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from mindspore_paged.weights.tensor_source import Checkpoint, TensorSource

ADAPTER = "adapter_config.json"
_PICKLES = ("pytorch_model*.bin", "consolidated.*.pth", "*.pth", "*.pt", "*.bin")


class TensorCheckpoint(ModelTensors):
    """Safetensors or `.ckpt` files as a Checkpoint; `layout` is the model that fused tensors are taken apart for."""

    def __init__(
        self,
        path: Path,
        source: TensorSource,
        layout: ModelConfig,
        described: ModelConfig | None,
        tokenizer_source: Path | None,
    ):
        super().__init__(path, source, layout)
        self.model_config = described and replace(described, biases=self._biases_of(described))
        self.tokenizer_source = tokenizer_source

    def _biases_of(self, described: ModelConfig) -> tuple[str, ...]:
        """Those that config.json allows and a file has: one that is nowhere is zero, as transformers makes it."""
        found = self._spec.biased_projections(self.names())
        return tuple(projection for projection in described.biases if projection in found)


def open_checkpoint(
    path: str | Path, model_config: ModelConfig | None = None, parallel: TensorParallel = WHOLE
) -> Checkpoint:
    """The checkpoint at `path`, its reader chosen by what is there; weights are read later, one at a time.

    path: a GGUF file; a Hugging Face folder (config.json beside safetensors, in one file or in shards with an index);
    a `.safetensors` or MindSpore `.ckpt` file, or a folder of them, in the names of MindFormers or Hugging Face; a
    folder of such folders rank_0, rank_1, … with the parts of each rank.
    model_config: needed for the last two kinds, which describe no model (ranks' folders: unless config.json is beside
    them); the others describe theirs.
    parallel: which rank's folder to open, if `path` holds such folders; the checkpoint is then a ShardedCheckpoint of
    that rank. The others are opened whole, for whoever wants a part to wrap in one.
    Raises CheckpointError where there is no checkpoint, or one that is damaged or of no family that runs.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if is_gguf(path):
        return GgufCheckpoint(path)
    if has_rank_folders(path):
        return _open_rank_folder(path, model_config, parallel)
    if (path / "config.json").is_file():
        described = hf_model_config(path)
        checkpoint = TensorCheckpoint(path, _hf_tensors(path, described), described, described, path)
        check_description(checkpoint)
        return checkpoint
    reader, files = _bare_files(path)
    layout = _needed(model_config, path)
    return TensorCheckpoint(path, reader(files), layout, None, path if path.is_dir() else None)


def _open_rank_folder(path: Path, model_config: ModelConfig | None, parallel: TensorParallel) -> ShardedCheckpoint:
    folder = rank_folder(path, parallel)
    reader, files = _bare_files(folder)
    described = hf_model_config(path) if (path / "config.json").is_file() else None
    if quantization_of(path) is not None:
        raise CheckpointError(f"{path}: quantized weights are not read from the folders of ranks; give the model whole")
    whole = described or _needed(model_config, path)
    parts = TensorCheckpoint(folder, reader(files), parallel.share(whole), described, path)
    return ShardedCheckpoint(parts, RankFolderCuts(parallel, whole, parts))


def _needed(model_config: ModelConfig | None, path: Path) -> ModelConfig:
    if model_config is None:
        raise CheckpointError(f"{path}: bare weights, which do not describe their model; give its configuration too")
    return model_config


def _hf_tensors(folder: Path, described: ModelConfig) -> TensorSource:
    weights_of, files = quantization_of(folder), _safetensors(folder)
    return files if weights_of is None else QuantizedFiles(folder, files, weights_of, described)


def _safetensors(folder: Path) -> SafetensorsFiles:
    # As in transformers, the single file comes first.
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return SafetensorsFiles([single])
    if index.is_file():
        return SafetensorsFiles.of_index(index)
    raise CheckpointError(
        f"{folder}: has config.json, but neither {single.name} nor {index.name}{_what_is_there(folder)}"
    )


def _bare_files(path: Path) -> tuple[type[TensorSource], list[Path]]:
    readers = {".ckpt": MindSporeFiles, ".safetensors": SafetensorsFiles}
    if path.is_file():
        if path.suffix not in readers:
            kind = foreign_kind(read_start(path)) or "unknown kind of file"
            raise CheckpointError(f"{path}: {kind}; allowed: .gguf, {', '.join(readers)}")
        return readers[path.suffix], [path]
    if not (path / ADAPTER).is_file():
        for suffix, reader in readers.items():
            if files := sorted(path.glob(f"*{suffix}")):
                return reader, files
    raise CheckpointError(f"{path}: holds no config.json, no .ckpt and no .safetensors{_what_is_there(path)}")


def _what_is_there(folder: Path) -> str:
    """The end of a line that says why `folder` holds no checkpoint: what it holds instead, if that is known."""
    if (folder / ADAPTER).is_file():
        return f"; {ADAPTER} makes it an adapter (LoRA), not a model: merge it into its base model first"
    for pattern in _PICKLES:
        if file := next(iter(sorted(folder.glob(pattern))), None):
            return f"; {file.name} is a PyTorch file (pickle), which is not read: convert it to safetensors"
    if snapshot := next(iter(sorted(folder.glob("snapshots/*/config.json"))), None):
        return f"; it is a cache of the Hub: the model is in {snapshot.parent.relative_to(folder)}"
    return "" if any(folder.iterdir()) else ": it is empty"
