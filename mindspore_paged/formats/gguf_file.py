"""A GGUF file: its metadata as plain Python values, its tensors as views of the file."""

from pathlib import Path
from typing import Any

from gguf import GGUFReader, ReaderTensor

from mindspore_paged.errors import CheckpointError

MAGIC = b"GGUF"


class GgufFile:
    """The header of one GGUF file, parsed once for the weights and the tokenizer; tensors stay on disk until used.

    metadata: every key of the file with its value as int, float, bool, str or a list of these.
    tensors: the file's tensor table by name; each entry's `data` is a read-only view of the memory-mapped file.
    Raises CheckpointError for a file that is missing, no GGUF, damaged or shorter than its own tensor table says.
    Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        reader = _read(self.path)
        self.tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}
        self.metadata: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}

    def require(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of metadata `key`; raises CheckpointError where it is absent or of another kind."""
        value = self.optional(key, kind)
        if value is None:
            raise CheckpointError(f"{self.path}: the GGUF metadata lacks {key}")
        return value

    def optional(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of metadata `key`, or None where it is absent; raises CheckpointError for another kind."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, kind):
            raise CheckpointError(f"{self.path}: {key} is a {type(value).__name__}, which that key cannot be")
        return value


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that is named, or starts, as GGUF files do."""
    return path.is_file() and (path.suffix == ".gguf" or _first_bytes(path) == MAGIC)


def eos_token_ids(file: GgufFile) -> tuple[int, ...]:
    """The tokens that the file names as ends, without repeats.

    They are those of a sequence (`eos`), of a turn of a chat (`eot`) and of a message to a tool (`eom`), then what
    models of code put between files (`fim_…`).
    """
    names = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
    ids = [file.optional(f"tokenizer.ggml.{name}_token_id", int) for name in names]
    return tuple(dict.fromkeys(token for token in ids if token is not None))


def _read(path: Path) -> GGUFReader:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    start = _first_bytes(path)
    if start != MAGIC:
        raise CheckpointError(f"{path}: not a GGUF file; it starts with {start!r} instead of {MAGIC!r}")
    try:
        reader = GGUFReader(path)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        # What GGUFReader raises depends on where the bytes stop making sense; it checks nothing by itself.
        size = path.stat().st_size
        raise CheckpointError(f"{path}: damaged GGUF file, or cut short at {size} bytes ({error})") from error
    if reader.byte_order == "S":
        raise CheckpointError(f"{path}: this GGUF file has the other byte order than this machine")
    return reader


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
