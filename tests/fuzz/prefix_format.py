"""Prefix files: an archive of pages and a manifest, imported into an engine."""

import io
import json
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix
from tests.cache.hostile import forged_page
from tests.engine.test_prefix_store import PREFIX, answer, engine_of, state_of
from tests.fuzz.havoc import HAVOC, LIES, havoc_of, lie_about
from tests.fuzz.json_values import broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant
from tests.fuzz.page_format import DTYPES, SHAPES, STORED
from tests.fuzz.safetensors_format import taken_apart

PLAIN, SEALED = "prefix.zip", "sealed.zip"
MANIFEST = "manifest.json"
ANSWER = frozenset({"answer"})
"""Fewer pages may be taken than were exported, but none that changes an answer."""
EXTRA = (*LIES, PREFIX, PREFIX[:4], PREFIX[:3], [1] * 40, [1] * 39, ["a"], [-1], [64], "a model")
_HASHES: list[bytes] = []
extend_block_hashes(_HASHES, PREFIX, 4)


def _engine(file: str):
    engine = engine_of()
    engine.page_key = bytes(range(32)) if file == SEALED else None
    return engine


_SAMPLES = [{file: export_prefix(_engine(file), PREFIX)} for file in (PLAIN, SEALED)]


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
    ((file, content),) = files.items()
    members = members_of(content)
    if random.random() < 0.8:
        members[MANIFEST], what = mutated(json.loads(members[MANIFEST]), random, EXTRA)
    else:
        members[MANIFEST], what = broken(members[MANIFEST], random)
    return Mutant({file: archive_of(list(members.items()))}, what, ANSWER)


def forged_pages(files: Files, random: Random) -> Mutant:
    """Pages with right checksums of another type, shape or content; a seal cannot be forged."""
    ((file, content),) = files.items()
    members = members_of(content)
    at = random.randrange(len(_HASHES))
    header, data = taken_apart(members[_page(at)])
    words, tensor = header["__metadata__"], header["page"]
    dtype, stored, shape = words["dtype"], tensor["dtype"], tensor["shape"]
    what = random.choice(("dtype", "stored", "shape", "content", "all", "other page"))
    if what in ("dtype", "all"):
        dtype = random.choice((*DTYPES, "int64", "uint8"))
    if what in ("stored", "all"):
        stored = random.choice((*STORED, "I64", "U32"))
    if what in ("shape", "all"):
        shape = random.choice((*SHAPES, [4, 1], [1, 4], [2, 2], [16]))
    if what == "content":
        data = random.choice((bytes(len(data)), random.randbytes(len(data)), data * 2, data[:-1], b""))
    if what == "other page":
        at = random.randrange(len(_HASHES))
    seal = {"seal": words["seal"]} if "seal" in words else {}
    members[_page(at)] = forged_page(_HASHES[at], words["model"], dtype, stored, shape, data, **seal)
    believed = file != SEALED and what in ("content", "other page")  # whoever can write is, without a key
    made = archive_of(list(members.items()))
    return Mutant({file: made}, f"{what} {dtype} {stored} {shape}", frozenset() if believed else ANSWER)


def damaged_pages(files: Files, random: Random) -> Mutant:
    """Pages that are no longer what was written."""
    ((file, content),) = files.items()
    members = members_of(content)
    name = _page(random.randrange(len(_HASHES)))
    members[name] = random.choice(HAVOC)(members[name], random)
    return Mutant({file: archive_of(list(members.items()))}, name, ANSWER)


def members(files: Files, random: Random) -> Mutant:
    """Members gone, twice, swapped, with other names, or compressed."""
    ((file, content),) = files.items()
    items = list(members_of(content).items())
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
    return Mutant({file: archive_of(items[:600], compression)}, what, ANSWER)


def archive_numbers(files: Files, random: Random) -> Mutant:
    """Counts, sizes and places in the archive's own records."""
    ((file, content),) = files.items()
    changed = bytearray(content)
    signature = random.choice((b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"))
    starts = [at for at in range(len(changed)) if changed.startswith(signature, at)]
    start = random.choice(starts)
    forms = {b"PK\x01\x02": (6, 8, 10, 16, 20, 24, 28, 30, 32, 38, 42), b"PK\x05\x06": (4, 8, 10, 12, 16, 20)}
    at = start + random.choice(forms.get(signature, (4, 6, 8, 14, 18, 22, 26, 28)))
    width = random.choice((2, 4))
    old = int.from_bytes(changed[at : at + width], "little")
    changed[at : at + width] = (lie_about(old, random) % 2 ** (8 * width)).to_bytes(width, "little")
    return Mutant({file: bytes(changed)}, f"{signature!r} at {at}", ANSWER)


def harmless(files: Files, random: Random) -> Mutant:
    """The same members in another archive."""
    ((file, content),) = files.items()
    items = members_of(content)
    items[MANIFEST] = same_content(json.loads(items[MANIFEST]), random)
    listed = list(items.items())
    random.shuffle(listed)
    head = random.choice((b"", b"#!/bin/sh\n"))
    return Mutant({file: head + archive_of([*listed, ("notes.txt", b"a")])}, "another archive", EVERYTHING)


def _page(index: int) -> str:
    return f"{index:06}.safetensors"


def use(folder: Path) -> dict[str, Any]:
    """Import it into an engine, which then answers; whatever was in the file, its state is sound."""
    (path,) = folder.iterdir()
    engine = _engine(path.name)
    before = state_of(engine)
    try:
        tokens = import_prefix(engine, path)
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
        (
            manifest_values,
            manifest_values,
            forged_pages,
            forged_pages,
            damaged_pages,
            members,
            archive_numbers,
            harmless,
            havoc_of(keeps=ANSWER),
        ),
        use,
    ),
)
