"""Pages in files, as another tenant of the folder could have written them."""

import json
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np

from mindspore_paged.cache.page_format import decode_page, encode_page, page_checksum
from tests.cache.pages import name as name_of
from tests.fuzz.havoc import LIES, havoc_of
from tests.fuzz.json_values import mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant
from tests.fuzz.safetensors_format import put_together, taken_apart

FILE = "page.safetensors"
MODEL = "0" * 64
HASH = name_of(7)
_PAGES = [
    np.random.default_rng(1).standard_normal((2, 1, 4, 2, 3)).astype(dtype)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)
]
_SAMPLES = [{FILE: encode_page(page, page_checksum(HASH, page), MODEL)} for page in _PAGES]
DTYPES = (
    *(
        "object",
        "O",
        "V8",
        "S3",
        "U2",
        "str",
        "bytes",
        "datetime64[s]",
        "float64",
        "complex64",
        "float32",
        "float16",
        "int8",
    ),
    *(
        "bfloat16",
        "bool",
        "void",
        "f4,f4",
        "(2,)f4",
        "{'names': ['a']}",
        ">f4",
        "float32\n",
        "",
        "[",
        "int",
        "lambda: 1",
        "float8",
    ),
)
SHAPES = (
    [],
    [0],
    [1],
    [48],
    [2, 1, 4, 2, 3, 1],
    [3, 2, 4, 1, 2],
    [1, 2, 4, 2, 3],
    [2**32, 2**32],
    [-1],
    [2, 24],
    [0, 5],
)
EXTRA = (*DTYPES, *SHAPES, *LIES, MODEL, "mindspore_paged.page.1")


def sealed(page: bytes, dtype: str, shape: list[int], checked: bytes | None = None) -> bytes:
    """A page with a right checksum over whatever it says of itself."""
    description = f"{HASH.hex()} {dtype} {tuple(shape)}".encode()
    metadata = {
        "format": "mindspore_paged.page.1",
        "model": MODEL,
        "dtype": dtype,
        "checksum": f"{crc32(page if checked is None else checked, crc32(description)):08x}",
    }
    header = {"__metadata__": metadata, "page": {"dtype": "U8", "shape": shape, "data_offsets": [0, len(page)]}}
    return put_together(json.dumps(header).encode(), page)


def another_page(files: Files, random: Random) -> Mutant:
    """A right checksum, and another type or shape than the pool's."""
    header, data = taken_apart(files[FILE])
    dtype, shape = header["__metadata__"]["dtype"], header["page"]["shape"]
    what = random.choice(("dtype", "shape", "stored type", "longer"))
    if what == "dtype":
        dtype = random.choice(DTYPES)
    elif what == "shape":
        shape = random.choice(SHAPES)
    elif what == "longer":
        data, shape = data * 2, [2, *shape]
    made = sealed(data, dtype, shape)
    if what == "stored type":
        changed, rest = taken_apart(made)
        changed["page"]["dtype"] = random.choice(("F32", "U8", "I8", "F64", "BOOL", "C64"))
        made = put_together(json.dumps(changed).encode(), rest)
    return Mutant({FILE: made}, f"{what}: {dtype} {shape}", EVERYTHING if made == files[FILE] else frozenset({"form"}))


def header_values(files: Files, random: Random) -> Mutant:
    """Other values in the header."""
    header, data = taken_apart(files[FILE])
    text, what = mutated(header, random, EXTRA)
    return Mutant({FILE: put_together(text, data)}, what, EVERYTHING)


def harmless(files: Files, random: Random) -> Mutant:
    """The same header written otherwise."""
    header, data = taken_apart(files[FILE])
    return Mutant({FILE: put_together(same_content(header, random), data)}, "written otherwise", EVERYTHING)


def use(folder: Path) -> dict[str, Any]:
    """Decode the page as the file tier does."""
    page, checksum = decode_page((folder / FILE).read_bytes(), HASH, MODEL)
    return {"form": (page.shape, page.dtype.name), "content": page.tobytes(), "checksum": checksum}


FORMATS = (
    FileFormat(
        "page",
        _SAMPLES,
        (another_page, another_page, header_values, harmless, havoc_of(keeps=EVERYTHING)),
        use,
        names_file=False,
    ),
)
