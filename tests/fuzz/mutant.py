"""What a format is to the fuzzer, and one mutant of it by seed and number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

Files = dict[str, bytes]
"""Contents by path within a folder."""

EVERYTHING = frozenset({"everything"})
"""Stands for all parts of an answer."""


@dataclass(frozen=True)
class Mutant:
    """Files made of a good sample.

    keeps: parts of the answer that must be those of the good sample, if there is one: their bytes are as they were.
    """

    files: Files
    what: str
    keeps: frozenset[str] = frozenset()
    sample: int = 0


Mutator = Callable[[Files, Random], Mutant]


@dataclass(frozen=True)
class FileFormat:
    """A format that is read.

    samples: good files, all of which are accepted. mutators: with repeats, for those that should come more often.
    use: does with the files in a folder what the product does, without a device; returns what came out, by parts.
    names_file: a refusal must give the path of a file.
    """

    name: str
    samples: Sequence[Files]
    mutators: Sequence[Mutator]
    use: Callable[[Path], dict[str, Any]]
    names_file: bool = True

    def mutant(self, seed: int, number: int) -> Mutant:
        """Mutant `number` of this seed."""
        random = Random(f"{self.name} {seed} {number}")
        sample = random.randrange(len(self.samples))
        mutator = random.choice(self.mutators)
        made = mutator(dict(self.samples[sample]), random)
        return Mutant(made.files, f"{mutator.__name__}: {made.what}", made.keeps, sample)


def written(files: Files, folder: Path) -> Path:
    """The folder, with the files in it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read_files(folder: Path) -> Files:
    """All files in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
