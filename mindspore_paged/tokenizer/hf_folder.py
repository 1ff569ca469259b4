"""The tokenizer of a Hugging Face folder, whose facts lie in many files: read by transformers from a checked copy."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer as Backend

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import checked, read_bytes, read_json_object, read_json_object_if_there
from mindspore_paged.tokenizer.hf_config_file import (
    CONFIG,
    AddedTokens,
    SpecialTokens,
    TokenizerConfig,
    read_chat_templates,
    read_tokenizer_config,
)
from mindspore_paged.tokenizer.sentencepiece_file import checked_sentencepiece
from mindspore_paged.wording import one_line, shortened

TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
BPE_FILES = ("vocab.json", "merges.txt")
MOST_BYTES = 64 * 2**20
"""Of a vocabulary; the largest that are published have half of that."""
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"

PROBE = "Hello w\u00f6rld, 12 \u4f60\u597d \U0001f642\n"
"""A text that every tokenizer takes: files that can be parsed may hold rules that cannot be followed."""

LLAMA, PLAIN = "LlamaTokenizer", "PreTrainedTokenizer"
# Names of classes that are nothing but their tokenizer.json: transformers 5 writes the second.
_PLAIN_CLASSES = (PLAIN, "TokenizersBackend")
# Classes that may be built from a vocabulary where there is no tokenizer.json.
_OF_SENTENCEPIECE = (LLAMA, "CodeLlamaTokenizer", "GemmaTokenizer")
_OF_BPE_FILES = ("GPT2Tokenizer", "Qwen2Tokenizer")
_LLAMAS = (LLAMA, "CodeLlamaTokenizer")


@dataclass(frozen=True)
class HfTokenizer:
    """What the folder's files say together.

    special_tokens: what `bos_token`, `eos_token`, … stand for in chat templates. templates: their texts by name.
    """

    backend: Backend
    bos_token_id: int | None
    eos_token_id: int | None
    special_tokens: dict[str, Any]
    templates: dict[str, str]


def has_hf_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds a tokenizer: tokenizer.json, or a vocabulary from which one is made."""
    has = {name: (folder / name).exists() for name in (TOKENIZER, SENTENCEPIECE, *BPE_FILES)}
    return has[TOKENIZER] or has[SENTENCEPIECE] or all(has[name] for name in BPE_FILES)


def read_hf_tokenizer(folder: Path) -> HfTokenizer:
    """The tokenizer of `folder` as transformers' AutoTokenizer has it, offline and without code of the folder.

    Raises CheckpointError where it is damaged, or of a class that transformers does not have.
    """
    config = read_tokenizer_config(folder)
    templates = read_chat_templates(folder, config)
    kind = _class_of(folder, config)
    with TemporaryDirectory(prefix="tokenizer-") as copy:
        _copy(folder, Path(copy), config, kind)
        tokenizer = _load(folder, Path(copy))
    backend = tokenizer.backend_tokenizer
    # Settings left over from training: a prompt is never cut or filled up.
    backend.no_truncation()
    backend.no_padding()
    with _as_checkpoint_errors(folder / TOKENIZER if (folder / TOKENIZER).exists() else folder / SENTENCEPIECE):
        backend.decode(backend.encode(PROBE).ids)
    if kind in _LLAMAS:
        _check_ends(folder, tokenizer)
    return HfTokenizer(
        backend, tokenizer.bos_token_id, tokenizer.eos_token_id, dict(tokenizer.special_tokens_map), templates
    )


def _class_of(folder: Path, config: TokenizerConfig) -> str:
    """The class, without `Fast`, that tokenizer_config.json or config.json names or the model implies."""
    model = read_json_object_if_there(folder / "config.json")
    named = config.tokenizer_class or model.get("tokenizer_class")
    has_json = (folder / TOKENIZER).exists()
    if named is None:
        return LLAMA if not has_json or (model.get("model_type") == "llama" and _has_llama_tokens(folder)) else PLAIN
    kind = str(named).removesuffix("Fast")
    if has_json and kind in _PLAIN_CLASSES:
        return PLAIN
    allowed = _OF_SENTENCEPIECE if (folder / SENTENCEPIECE).exists() else _OF_BPE_FILES
    if not (_is_fast_class(kind) if has_json else kind in allowed):
        others = "one of transformers' own that is fast" if has_json else " or ".join(allowed)
        raise CheckpointError(f"{folder}: tokenizer_class is {shortened(named)}; allowed: {others}")
    return kind


def _has_llama_tokens(folder: Path) -> bool:
    """Whether the tokens that LlamaTokenizer puts around a text by default are in the vocabulary.

    A folder that names no class is of that one by its model; but where it would add its tokens to the vocabulary,
    their ids would be beyond the model's.
    """
    return read_backend(folder / TOKENIZER).token_to_id("<s>") is not None


def read_backend(path: Path) -> Backend:
    """The tokenizer.json at `path` as it stands; raises CheckpointError where it is none."""
    with _as_checkpoint_errors(path):
        return Backend.from_str(read_bytes(path, MOST_BYTES).decode("utf-8"))


def _copy(folder: Path, copy: Path, config: TokenizerConfig, kind: str) -> None:
    """Put into `copy` what transformers may see of `folder`: files of known names, sizes and keys."""
    values = config.for_transformers() | {"tokenizer_class": f"{kind}Fast"}
    for name in (TOKENIZER, *BPE_FILES):
        if (folder / name).exists():
            (copy / name).write_bytes(read_bytes(folder / name, MOST_BYTES))
    if (folder / SENTENCEPIECE).exists():
        (copy / SENTENCEPIECE).write_bytes(checked_sentencepiece(folder / SENTENCEPIECE))
    else:
        # They ask for the tokenizer to be made anew, of that file.
        values = {key: value for key, value in values.items() if key not in ("add_prefix_space", "from_slow")}
    if path := _if_there(folder / SPECIAL_TOKENS):
        _write_json(copy / path.name, checked(path, SpecialTokens, read_json_object(path)).for_transformers())
    if path := _if_there(folder / ADDED_TOKENS):
        _write_json(copy / path.name, checked(path, AddedTokens, {"by_text": read_json_object(path)}).by_text)
    _write_json(copy / CONFIG, values)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _load(folder: Path, copy: Path):
    """transformers' fast tokenizer of the files in `copy`."""
    source = next(folder / name for name in (TOKENIZER, SENTENCEPIECE, *BPE_FILES) if (copy / name).exists())
    with quiet_transformers(), _as_checkpoint_errors(source):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False, use_fast=True)


def _is_fast_class(kind: str) -> bool:
    with quiet_transformers():
        from transformers import PreTrainedTokenizerFast
        from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

        found = tokenizer_class_from_name(f"{kind}Fast")
        return isinstance(found, type) and issubclass(found, PreTrainedTokenizerFast)


def _check_ends(folder: Path, tokenizer) -> None:
    """Raise CheckpointError where a token that is put around every text was added to the vocabulary for that."""
    for name in ("bos", "eos"):
        index, text = getattr(tokenizer, f"{name}_token_id"), getattr(tokenizer, f"{name}_token")
        is_added = getattr(tokenizer, f"add_{name}_token", False) and index >= tokenizer.vocab_size
        if is_added and (folder / TOKENIZER).exists() and read_backend(folder / TOKENIZER).token_to_id(text) is None:
            raise CheckpointError(
                f"{folder}: add_{name}_token is true, but {name}_token {shortened(text)} is not in the vocabulary"
            )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let transformers be imported and used without what it tells developers on stderr."""
    variable = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(variable)
    os.environ[variable] = "1"  # that there is no PyTorch, at import
    try:
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(verbosity)
    finally:
        os.environ.pop(variable)
        if before is not None:
            os.environ[variable] = before


@contextmanager
def _as_checkpoint_errors(path: Path) -> Iterator[None]:
    """Make whatever the parsers raise for the file at `path` a CheckpointError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, CheckpointError):
        raise
    except BaseException as error:  # parsers of others raise anything, and a panic in Rust is no Exception
        raise CheckpointError(f"{path}: not a tokenizer ({one_line(error)})") from error
