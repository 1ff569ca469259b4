"""Manifests of exported models: what a folder says of its own files."""

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from mindspore_paged.custom_ops.build import runnable_levels
from mindspore_paged.mindir.folder import MANIFEST, MindIRFolder
from tests.fuzz.havoc import LIES, havoc_of
from tests.fuzz.json_values import broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant, read_files
from tests.mindir.test_folder import FIXED, write_folder

EXTRA = (
    *LIES,
    "kernels/lib.so",
    "../kernels/lib.so",
    "/dev/zero",
    "weights",
    "step.mindir",
    "0" * 64,
    [1, 8],
    [2, 3],
    "x86_64",
    "avx2",
    "x86-64-v2",
    "int8",
    [2, 34],
)


def _sample() -> Files:
    with TemporaryDirectory() as folder:
        return read_files(write_folder(Path(folder), (runnable_levels()[0].name, runnable_levels()[-1].name)))


_SAMPLES = [_sample()]


def values(files: Files, random: Random) -> Mutant:
    """Other values in the manifest."""
    files[MANIFEST], what = mutated(json.loads(files[MANIFEST]), random, EXTRA)
    return Mutant(files, what)


def hardly_json(files: Files, random: Random) -> Mutant:
    """A manifest that is hardly JSON."""
    files[MANIFEST], what = broken(files[MANIFEST], random)
    return Mutant(files, what)


def harmless(files: Files, random: Random) -> Mutant:
    """The same manifest written otherwise."""
    files[MANIFEST] = same_content(json.loads(files[MANIFEST]), random)
    return Mutant(files, "written otherwise", EVERYTHING)


def file_gone(files: Files, random: Random) -> Mutant:
    """A file less, or a folder in its place."""
    name = random.choice(list(files))
    content = files.pop(name)
    if random.random() < 0.5:
        files[f"{name}/a"] = content
    return Mutant(files, f"{name} gone")


def _others(files: Files) -> list[str]:
    return [name for name in files if name != MANIFEST]


def use(folder: Path) -> dict[str, Any]:
    """Check the folder as a start does, before anything in it is loaded."""
    opened = MindIRFolder(folder)
    opened.check_fixed(FIXED)
    places = [opened.graph, opened.kernel_library, *opened.weight_files]
    outside = [path for path in places if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise AssertionError(f"{outside[0]} is outside of the folder")
    return {"manifest": repr(opened.manifest), "files": [str(path.relative_to(folder)) for path in places]}


FORMATS = (
    FileFormat(
        "manifest",
        _SAMPLES,
        (*[values] * 6, hardly_json, harmless, file_gone, havoc_of(_others), havoc_of(lambda _files: [MANIFEST])),
        use,
    ),
)
