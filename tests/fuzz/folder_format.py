"""Hugging Face folders: the JSON files beside the weights, and the chat template."""

import json
from pathlib import Path
from random import Random
from typing import Any

import transformers.models.auto.tokenization_auto  # noqa: F401, what reads tokenizers: before there are children

from tests.fuzz.answers import model_answer
from tests.fuzz.folder_samples import SPECIAL, folders
from tests.fuzz.havoc import havoc_of
from tests.fuzz.json_values import broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant

_SAMPLES = folders()
OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
OF_TENSORS = ("model.safetensors.index.json",)
VALUES = (
    *(
        "llama",
        "mistral",
        "default",
        "linear",
        "llama3",
        "dynamic",
        "yarn",
        "longrope",
        "silu",
        "gelu",
        "LlamaTokenizer",
    ),
    *(
        "BPE",
        "WordPiece",
        "Unigram",
        "ByteLevel",
        "Sequence",
        "Regex",
        "(",
        "(a+)+$",
        "auto",
        "fp8",
        "model.safetensors",
    ),
    *("model-00001-of-00002.safetensors", "../model.safetensors", "x" * 300, *SPECIAL, 12, 13, 64),
    *(
        {"rope_type": "linear", "factor": 2.0},
        {"type": "dynamic", "factor": "2"},
        {"rope_type": "yarn"},
        {"factor": 1e300},
    ),
    *({"default": "x"}, [{"name": "default", "template": "x"}], [{"name": "default"}], {"quant_method": "fp8"}),
)


def structured(files: Files, random: Random) -> Mutant:
    """One file with other values."""
    name = random.choice(_json_files(files))
    files[name], what = mutated(json.loads(files[name]), random, VALUES)
    return Mutant(files, f"{name}: {what}", _kept(name))


def hardly_json(files: Files, random: Random) -> Mutant:
    """One file whose text is none, or hardly one."""
    name = random.choice(_json_files(files))
    files[name], what = broken(files[name], random)
    return Mutant(files, f"{name}: {what}", _kept(name))


def harmless(files: Files, random: Random) -> Mutant:
    """The same values in another order and another way of writing."""
    for name in _json_files(files):
        tree = json.loads(files[name])
        if name != "tokenizer.json":  # the order of its vocabulary is nobody's business, but that of its merges is
            files[name] = same_content(tree, random)
    unused = random.choice(
        ({"README.md": b"\xff"}, {"pytorch_model.bin": b"x"}, {"notes.json": b"{"}, {"sub/a.txt": b""})
    )
    return Mutant(files | unused, "written otherwise", EVERYTHING)


def file_gone(files: Files, random: Random) -> Mutant:
    """A file less, or an empty one, or a folder in its place."""
    name = random.choice(list(files))
    content = files.pop(name)
    what = random.choice(("gone", "empty", "a folder", "twice"))
    if what == "empty":
        files[name] = b""
    elif what == "a folder":
        files[f"{name}/a"] = content
    elif what == "twice":
        files |= {name: content, f"copy of {name}": content}
    return Mutant(files, f"{name} {what}", _kept(name))


def _json_files(files: Files) -> list[str]:
    return [name for name in files if name.endswith(".json")]


def _kept(name: str) -> frozenset[str]:
    if name in OF_TOKENIZER or name.startswith("chat_template"):
        return frozenset({"tensors"})
    return frozenset({"ids", "chat"}) if name in OF_TENSORS else frozenset()


def use(folder: Path) -> dict[str, Any]:
    """Open the folder, read all of it, and encode, decode and render with its tokenizer."""
    return model_answer(folder)


FORMATS = (
    FileFormat(
        "folder",
        _SAMPLES,
        (*[structured] * 6, hardly_json, hardly_json, harmless, file_gone, havoc_of(_json_files)),
        use,
    ),
)
