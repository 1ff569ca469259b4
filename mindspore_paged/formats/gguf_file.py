"""A GGUF file: its metadata as plain Python values, its tensors as views of the file."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_header import MAGIC, GgufTensor, read_header
from mindspore_paged.formats.gguf_metadata import GgufMetadata
from mindspore_paged.formats.gguf_split import tensors_of_all_parts

TOKENIZER = "tokenizer.ggml.model"
TOKENS = "tokenizer.ggml.tokens"
EMBEDDING = "token_embd.weight"
SENTENCEPIECE = "llama"
"""The tokenizer of LLaMA 1 and 2, by the name that it has in the metadata."""

_ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_DEFAULT_IDS = {SENTENCEPIECE: {"bos": 1, "eos": 2, "unknown": 0}}
log = logging.getLogger("mindspore_paged")


class GgufFile:
    """The header of a GGUF file, parsed once for the weights and the tokenizer; tensors stay on disk until used.

    path: the file, or the first of those that hold a model in parts.
    metadata: every key of the file, the first of several.
    tensors: the tensor table of all parts by name; each entry's `data` is a read-only view of the memory-mapped file.
    Raises CheckpointError for a file that is missing, no GGUF, damaged or shorter than its own tensor table says.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        header = read_header(self.path)
        self.metadata = GgufMetadata(self.path, header.metadata)
        self.tensors: dict[str, GgufTensor] = tensors_of_all_parts(self.path, header)

    @cached_property
    def architecture(self) -> str:
        """What the file calls its family, by which many of its keys begin; raises CheckpointError without it."""
        return self.require("general.architecture", str)

    def require(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of metadata `key`; raises CheckpointError where it is absent or of another kind."""
        value = self.optional(key, kind)
        if value is None:
            raise CheckpointError(f"{self.path}: the GGUF metadata lacks {key}")
        return value

    def optional(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of metadata `key`, or None where it is absent; raises CheckpointError for another kind."""
        value = self.metadata.get(key)
        if value is None:
            return None
        # To Python a bool is an int; a file that says so means something else.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{self.path}: {key} is a {type(value).__name__}, which that key cannot be")
        return value

    @cached_property
    def special_token_ids(self) -> dict[str, int]:
        """The file's special tokens by name: `bos`, `eos`, `eot`, … as in tokenizer.ggml.bos_token_id.

        A token that the vocabulary does not have is named in a warning, and the default of the kind of vocabulary
        holds, as in llama.cpp; without a default it is left out.
        """
        size = self._num_tokens
        found = _DEFAULT_IDS.get(self.optional(TOKENIZER, str), {})
        found = {name: index for name, index in found.items() if size is None or index < size}
        for name in ("bos", "unknown", *_ENDS):
            key = f"tokenizer.ggml.{name}_token_id"
            index = self.optional(key, int)
            if index is None:
                continue
            if index >= 0 and (size is None or index < size):
                found[name] = index
            else:
                instead = f"{found[name]} is taken" if name in found else "it is ignored"
                of = "" if size is None else f" of a vocabulary of {size}"
                log.warning("%s: %s is %d, which is no token%s; %s", self.path, key, index, of, instead)
        return found

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that the file names as ends, without repeats.

        They are those of a sequence (`eos`), of a turn of a chat (`eot`) and of a message to a tool (`eom`), then what
        models of code put between files (`fim_…`).
        """
        ids = self.special_token_ids
        return tuple(dict.fromkeys(ids[name] for name in _ENDS if name in ids))

    @property
    def _num_tokens(self) -> int | None:
        embedding = self.tensors.get(EMBEDDING)
        rows = embedding.shape[0] if embedding else None
        return self.metadata.length(TOKENS) or rows


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that is named, or starts, as GGUF files do."""
    return path.is_file() and (path.suffix == ".gguf" or _first_bytes(path) == MAGIC)


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
