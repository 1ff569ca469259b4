"""Prefix files: an archive of pages and a manifest, imported into an engine."""

import io
import json
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mindspore_paged.cache.page_format import encode_page
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix
from tests.engine.test_prefix_store import PREFIX, answer, engine_of, state_of
from tests.fuzz.havoc import HAVOC, LIES, havoc_of, lie_about
from tests.fuzz.json_values import broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant
from tests.fuzz.page_format import DTYPES, SHAPES

FILE = "prefix.zip"
MANIFEST = "manifest.json"
_SAMPLES = [{FILE: export_prefix(engine_of(), PREFIX)}]
ANSWER = frozenset({"answer"})
"""Fewer pages may be taken than were exported, but none that changes an answer."""
EXTRA = (*LIES, PREFIX, PREFIX[:4], PREFIX[:3], [1] * 40, [1] * 39, ["a"], [-1], [64], "a model")


def members_of(archive: bytes) -> dict[str, bytes]:
    """Contents by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archive_of(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive, with a name twice where it is twice."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice
        for name, content in members:
            archive.writestr(name, content)
    return written.getvalue()


def manifest_values(files: Files, random: Random) -> Mutant:
    """Other values in the manifest."""
    members = members_of(files[FILE])
    if random.random() < 0.8:
        members[MANIFEST], what = mutated(json.loads(members[MANIFEST]), random, EXTRA)
    else:
        members[MANIFEST], what = broken(members[MANIFEST], random)
    return Mutant({FILE: archive_of(list(members.items()))}, what, ANSWER)


def pages(files: Files, random: Random) -> Mutant:
    """Pages with right checksums of another type, shape or content; or damaged ones."""
    members = members_of(files[FILE])
    name = random.choice([name for name in members if name != MANIFEST])
    what = random.choice(("dtype", "shape", "damaged", "bytes"))
    if what == "damaged":
        members[name] = random.choice(HAVOC)(members[name], random)
        return Mutant({FILE: archive_of(list(members.items()))}, what, ANSWER)
    length = members[name].find(b"checksum")
    dtype = random.choice((np.int32, np.float32, np.int8, np.int64, np.float64, np.uint8, np.bool_))
    page = np.full(random.choice(([4], [1], [2, 2], [4, 1], [], [0], [400])), random.choice((0, -7, 1)), dtype)
    if what == "dtype":
        members[name] = encode_page(page, "00000000", "a model").replace(
            json.dumps(page.dtype.name).encode(), json.dumps(random.choice(DTYPES)).encode()
        )
    elif what == "shape":
        page = np.zeros([size for size in random.choice(SHAPES) if 0 <= size < 99], np.int32)
        members[name] = encode_page(page, "00000000", "a model")
    return Mutant({FILE: archive_of(list(members.items()))}, f"{what} {length}", ANSWER)


def members(files: Files, random: Random) -> Mutant:
    """Members gone, twice, swapped, with other names, or compressed."""
    items = list(members_of(files[FILE]).items())
    what = random.choice(("gone", "twice", "swapped", "name", "compressed", "more"))
    at, other = random.randrange(len(items)), random.randrange(len(items))
    compression = zipfile.ZIP_STORED
    if what == "gone":
        del items[at]
    elif what == "twice":
        items.append((items[at][0], items[other][1]))
    elif what == "swapped":
        items[at], items[other] = (items[at][0], items[other][1]), (items[other][0], items[at][1])
    elif what == "name":
        items[at] = (
            random.choice(("../../x", "/etc/x", "a\x00b", "é", "x" * 60_000, ".")),
            items[at][1],
        )
    elif what == "compressed":
        compression = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        items[at] = (items[at][0], items[at][1] + b" " * random.choice((0, 10**5, 10**6)))
    else:
        items += [(f"{index:06}.safetensors", b"x") for index in range(500)]
    return Mutant({FILE: archive_of(items[:600], compression)}, what, ANSWER)


def archive_numbers(files: Files, random: Random) -> Mutant:
    """Counts, sizes and places in the archive's own records."""
    content = bytearray(files[FILE])
    signature = random.choice((b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"))
    starts = [at for at in range(len(content)) if content.startswith(signature, at)]
    start = random.choice(starts)
    forms = {b"PK\x01\x02": (6, 8, 10, 16, 20, 24, 28, 30, 32, 38, 42), b"PK\x05\x06": (4, 8, 10, 12, 16, 20)}
    at = start + random.choice(forms.get(signature, (4, 6, 8, 14, 18, 22, 26, 28)))
    width = random.choice((2, 4))
    old = int.from_bytes(content[at : at + width], "little")
    content[at : at + width] = (lie_about(old, random) % 2 ** (8 * width)).to_bytes(width, "little")
    return Mutant({FILE: bytes(content)}, f"{signature!r} at {at}", ANSWER)


def harmless(files: Files, random: Random) -> Mutant:
    """The same members in another archive."""
    items = members_of(files[FILE])
    items[MANIFEST] = same_content(json.loads(items[MANIFEST]), random)
    listed = list(items.items())
    random.shuffle(listed)
    head = random.choice((b"", b"#!/bin/sh\n"))
    return Mutant({FILE: head + archive_of([*listed, ("notes.txt", b"a")])}, "another archive", EVERYTHING)


def use(folder: Path) -> dict[str, Any]:
    """Import it into an engine, which then answers; whatever was in the file, its state is sound."""
    engine = engine_of()
    before = state_of(engine)
    try:
        tokens = import_prefix(engine, folder / FILE)
    except Exception:
        if state_of(engine) != before:
            raise AssertionError("a refused prefix changed the engine") from None
        raise
    engine.check_integrity()
    return {"tokens": tokens, "answer": answer(engine, [*PREFIX, 6])}


FORMATS = (
    FileFormat(
        "prefix",
        _SAMPLES,
        (manifest_values, manifest_values, pages, members, archive_numbers, harmless, havoc_of(keeps=ANSWER)),
        use,
    ),
)
