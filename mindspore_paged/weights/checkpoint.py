"""The one interface through which weights are read, whatever format holds them."""

from pathlib import Path
from typing import Any, Protocol

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import is_gguf
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.gguf_checkpoint import GgufCheckpoint
from mindspore_paged.weights.hf_config import hf_model_config
from mindspore_paged.weights.llama_tensors import LlamaTensors, TensorSource
from mindspore_paged.weights.mindspore_files import MindSporeFiles
from mindspore_paged.weights.safetensors_files import SafetensorsFiles, indexed_files


class Checkpoint(TensorSource, Protocol):
    """Tensors of one model under Hugging Face's LLaMA names, read one at a time.

    path: the file or folder it was opened from.
    model_config: the model that the checkpoint describes, or None where it holds bare weights.
    tokenizer_source: what `load_tokenizer` reads the tokenizer from, or None where there can be none.
    """

    path: Path
    model_config: ModelConfig | None
    tokenizer_source: Any


class TensorCheckpoint(LlamaTensors):
    """Safetensors or `.ckpt` files as a Checkpoint; `layout` is the model that fused tensors are cut for."""

    def __init__(self, path: Path, source: TensorSource, layout: ModelConfig, described: ModelConfig | None):
        super().__init__(path, source, layout)
        self.model_config = described
        self.tokenizer_source: Path | None = path if path.is_dir() else None


def open_checkpoint(path: str | Path, model_config: ModelConfig | None = None) -> Checkpoint:
    """The checkpoint at `path`, its reader chosen by what is there; weights are read later, one at a time.

    path: a GGUF file; a Hugging Face folder (config.json beside safetensors, in one file or in shards with an index);
    a `.safetensors` or MindSpore `.ckpt` file, or a folder of them, in the names of MindFormers or Hugging Face.
    model_config: needed for the last kind, which describes no model; the others describe theirs.
    Raises CheckpointError where there is no checkpoint, or one that is damaged or not of a plain LLaMA.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if is_gguf(path):
        return GgufCheckpoint(path)
    if (path / "config.json").is_file():
        described = hf_model_config(path)
        return TensorCheckpoint(path, SafetensorsFiles(_hf_files(path)), described, described)
    reader, files = _bare_files(path)
    if model_config is None:
        raise CheckpointError(f"{path}: bare weights, which do not describe their model; give its configuration too")
    return TensorCheckpoint(path, reader(files), model_config, None)


def _hf_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return indexed_files(index)
    raise CheckpointError(f"{folder}: has config.json, but neither {single.name} nor {index.name}")


def _bare_files(path: Path) -> tuple[type[TensorSource], list[Path]]:
    readers = {".ckpt": MindSporeFiles, ".safetensors": SafetensorsFiles}
    if path.is_file():
        if path.suffix not in readers:
            raise CheckpointError(f"{path}: unknown kind of file; allowed: .gguf, {', '.join(readers)}")
        return readers[path.suffix], [path]
    for suffix, reader in readers.items():
        if files := sorted(path.glob(f"*{suffix}")):
            return reader, files
    raise CheckpointError(f"{path}: holds no config.json, no .ckpt and no .safetensors")
