"""Pages in files, as another tenant of the folder could have written them; without a key, and with one."""

from pathlib import Path
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

from mindspore_paged.cache.page_format import PageFormat, page_checksum
from tests.cache.hostile import INVENTED_DTYPES, forged_page
from tests.cache.pages import name as name_of
from tests.fuzz.havoc import LIES, havoc_of
from tests.fuzz.json_values import mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant
from tests.fuzz.safetensors_format import put_together, taken_apart

MODEL = "0" * 64
HASH = name_of(7)
KEY = bytes(range(32))
_DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)
_PAGES = [np.random.default_rng(1).standard_normal((2, 1, 4, 2, 5)).astype(dtype) for dtype in _DTYPES]
_FORMATS = {
    f"{page.dtype.name}{'_sealed' if key else ''}.safetensors": PageFormat.of(page, MODEL, key)
    for page in _PAGES
    for key in (None, KEY)
}
DTYPES = (
    *INVENTED_DTYPES,
    "f4,f4",
    "(2,)f4",
    "{'names': ['a']}",
    "float32\n",
    "lambda: 1",
    "int8",
    "float16",
    "bfloat16",
)
STORED = ("F32", "U8", "I8", "F64", "BOOL", "C64", "F8_E4M3", "BF16", "I16", "F4")
SHAPES = (
    [],
    [0],
    [1],
    [80],
    [2, 1, 4, 2, 5, 1],
    [5, 2, 4, 1, 2],
    [1, 2, 4, 2, 5],
    [2**32, 2**32],
    [-1],
    [2, 40],
    [0, 5],
)
EXTRA = (*DTYPES, *STORED, *SHAPES, *LIES, MODEL, "mindspore_paged.page.1")


def _sample(name: str, page_format: PageFormat) -> Files:
    page = next(page for page in _PAGES if page.dtype == page_format.dtype)
    return {name: page_format.encode(HASH, page, page_checksum(HASH, page))}


_SAMPLES = [_sample(name, page_format) for name, page_format in _FORMATS.items()]


def forged(files: Files, random: Random) -> Mutant:
    """A right checksum over another type, shape or content than the pool's; a seal cannot be forged."""
    ((name, content),) = files.items()
    header, data = taken_apart(content)
    words, tensor = header["__metadata__"], header["page"]
    dtype, stored, shape = words["dtype"], tensor["dtype"], tensor["shape"]
    what = random.choice(("dtype", "stored", "shape", "longer", "content", "all"))
    if what in ("dtype", "all"):
        dtype = random.choice(DTYPES)
    if what in ("stored", "all"):
        stored = random.choice(STORED)
    if what in ("shape", "all"):
        shape = random.choice(SHAPES)
    if what == "longer":
        data, shape = data * 2, [2, *shape]
    if what == "content":
        data = random.randbytes(len(data))
    seal = {"seal": words["seal"]} if "seal" in words else {}
    made = forged_page(HASH, MODEL, dtype, stored, shape, data, **seal)
    is_sealed = _FORMATS[name].key is not None
    return Mutant({name: made}, f"{what}: {dtype} {stored} {shape}", EVERYTHING if is_sealed else frozenset({"form"}))


def header_values(files: Files, random: Random) -> Mutant:
    """Other values in the header."""
    ((name, content),) = files.items()
    header, data = taken_apart(content)
    text, what = mutated(header, random, EXTRA)
    return Mutant({name: put_together(text, data)}, what, EVERYTHING)


def harmless(files: Files, random: Random) -> Mutant:
    """The same header written otherwise."""
    ((name, content),) = files.items()
    header, data = taken_apart(content)
    return Mutant({name: put_together(same_content(header, random), data)}, "written otherwise", EVERYTHING)


def use(folder: Path) -> dict[str, Any]:
    """Decode the page as the file tier does, for the pool that the file's name speaks of."""
    (path,) = folder.iterdir()
    page, checksum = _FORMATS[path.name].decode(HASH, path.read_bytes())
    return {"form": (page.shape, page.dtype.name), "content": page.tobytes(), "checksum": checksum}


FORMATS = (
    FileFormat(
        "page",
        _SAMPLES,
        (forged, forged, header_values, harmless, havoc_of(keeps=EVERYTHING)),
        use,
        names_file=False,  # a refusal names the page
    ),
)
