"""Safetensors files and their index: a header of JSON that says where each tensor lies."""

import json
from pathlib import Path
from random import Random
from typing import Any

import safetensors.numpy

from tests.fuzz.answers import model_answer
from tests.fuzz.folder_samples import CONFIG, MODEL_CONFIG, sharded, weights
from tests.fuzz.havoc import LIES, havoc_of, lie_about, splice
from tests.fuzz.json_values import RAW, broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant

_SUFFIX = ".safetensors"
_BARE = "bare.safetensors"
_CONFIG = {"config.json": json.dumps(CONFIG).encode()}
_SAMPLES = [
    sharded() | _CONFIG,
    {"model.safetensors": safetensors.numpy.save(weights(), {"format": "pt"})} | _CONFIG,
    {_BARE: safetensors.numpy.save(weights())},
]
TYPES = (
    "BOOL",
    "U8",
    "I8",
    "F8_E4M3",
    "F8_E5M2",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "F64",
    "I64",
    "F4",
    "C64",
)


def taken_apart(content: bytes) -> tuple[dict, bytes]:
    """Header and data of a sound file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """A file of that header; length: what it says of the header's."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def header_values(files: Files, random: Random) -> Mutant:
    """Shapes, types, offsets and names in the header."""
    name = random.choice(_tensor_files(files))
    header, data = taken_apart(files[name])
    header, what = mutated(
        header, random, (*TYPES, *LIES, [0, 0], [0, len(data)], [len(data), 0], [8, 8], [2**32, 2**32])
    )
    files[name] = put_together(header, data)
    return Mutant(files, f"{name}: {what}")


def tensor_entry(files: Files, random: Random) -> Mutant:
    """One tensor of another type, shape, place or name."""
    name = random.choice(_tensor_files(files))
    header, data = taken_apart(files[name])
    tensor = random.choice([key for key in header if key != "__metadata__"])
    entry = header[tensor]
    what = random.choice(("type", "shape", "offsets", "swap", "transposed", "gone", "name", "twin"))
    other = random.choice([key for key in header if key != "__metadata__"])
    if what == "type":
        entry["dtype"] = random.choice(TYPES)
    elif what == "shape":
        at = random.randrange(len(entry["shape"]))
        entry["shape"][at] = lie_about(entry["shape"][at], random)
    elif what == "offsets":
        at = random.randrange(2)
        entry["data_offsets"][at] = lie_about(entry["data_offsets"][at], random)
    elif what == "swap":
        header[tensor], header[other] = header[other], header[tensor]
    elif what == "transposed":
        entry["shape"] = random.choice((entry["shape"][::-1], [1, *entry["shape"]], [*entry["shape"], 1], []))
    elif what == "gone":
        del header[tensor]
    elif what == "name":
        header[random.choice(("", "a\nb", "\x1b[2J", "x" * 3000, tensor + "\x00", "model.layers.9.a"))] = header.pop(
            tensor
        )
    else:
        header[tensor + "2"] = entry
    files[name] = put_together(json.dumps(header).encode(), data)
    return Mutant(files, f"{name}: {tensor}: {what}")


def header_frame(files: Files, random: Random) -> Mutant:
    """The header's length and text."""
    name = random.choice(_tensor_files(files))
    header, data = taken_apart(files[name])
    text = json.dumps(header).encode()
    what = random.choice(("length", "text", "raw", "more data", "less data"))
    length = None
    if what == "length":
        length = lie_about(len(text), random)
    elif what == "text":
        text, what = broken(text, random)
    elif what == "raw":
        text = random.choice(RAW).encode()
    else:
        data = data + bytes(100) if what == "more data" else data[:-1]
    files[name] = put_together(text, data, length)
    return Mutant(files, f"{name}: {what}")


def index_values(files: Files, random: Random) -> Mutant:
    """The index with other values, or hardly readable."""
    name = "model.safetensors.index.json"
    if name not in files:
        return header_frame(files, random)
    extra = (
        "model-00001-of-00002.safetensors",
        "model-00003-of-00002.safetensors",
        "/dev/zero",
        "x" * 300,
        "a\x00b",
        "config.json",
    )
    if random.random() < 0.7:
        files[name], what = mutated(json.loads(files[name]), random, extra)
    else:
        files[name], what = broken(files[name], random)
    return Mutant(files, f"index: {what}")


def harmless(files: Files, random: Random) -> Mutant:
    """The same header as another program might write it."""
    name = random.choice(_tensor_files(files))
    header, data = taken_apart(files[name])
    if random.random() < 0.5:
        header["__metadata__"] = {"format": "np", "a": "b\n", "é": "😀"}
    text = same_content(header, random)
    files[name] = put_together(text + b" " * random.randrange(9), data)
    return Mutant(files, f"{name} written otherwise", EVERYTHING)


def spliced(files: Files, random: Random) -> Mutant:
    """The beginning of a file and the end of one."""
    names = _tensor_files(files)
    name = random.choice(names)
    files[name] = splice(files[name], files[random.choice(names)], random)
    return Mutant(files, name)


def _tensor_files(files: Files) -> list[str]:
    return [name for name in files if name.endswith(_SUFFIX)]


def use(folder: Path) -> dict[str, Any]:
    """Open the folder, or the bare file as part of a model that is known, and read all tensors."""
    bare = folder / _BARE
    return model_answer(bare, MODEL_CONFIG) if bare.exists() else model_answer(folder)


FORMATS = (
    FileFormat(
        "safetensors",
        _SAMPLES,
        (
            *(header_values, header_values, tensor_entry, tensor_entry, header_frame, index_values, index_values),
            *(harmless, spliced, havoc_of(_tensor_files), havoc_of()),
        ),
        use,
    ),
)
