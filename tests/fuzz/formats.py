"""The formats by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from tests.fuzz.mutant import FileFormat, Mutant, read_files

PLANTED = "planted"
"""A format whose reader has every fault there is, for tests of the fuzzer itself."""

_MODULES = {
    "gguf": "gguf_format",
    "safetensors": "safetensors_format",
    "folder": "folder_format",
    "quantized": "quantized_format",
    "chat_template": "template_format",
    "yaml": "yaml_format",
    "mindformers": "yaml_format",
    "ckpt": "ckpt_format",
    "page": "page_format",
    "prefix": "prefix_format",
    "event_log": "event_log_format",
    "manifest": "manifest_format",
    "adapter": "adapter_format",
    "prompts": "prompts_format",
    PLANTED: "planted_format",
}
FORMATS = tuple(name for name in _MODULES if name != PLANTED)


CORPUS = Path(__file__).parent / "corpus"


@cache
def file_format(name: str) -> FileFormat:
    """The format called `name`, or the `corpus/NAME` of it; what reads it is imported now."""
    if name.startswith("corpus/"):
        return _corpus_of(file_format(name.removeprefix("corpus/")))
    module = import_module(f"tests.fuzz.{_MODULES[name]}")
    return next(each for each in module.FORMATS if each.name == name)


def corpus_cases(name: str) -> list[Path]:
    """The folders of what was found in a format."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_dir())


@dataclass(frozen=True)
class _Corpus(FileFormat):
    """What was found: mutant n is the n-th case, the files that are other than the format's first sample has them."""

    cases: Sequence[Mutant] = ()

    def mutant(self, seed: int, number: int) -> Mutant:
        """Case `number`."""
        return self.cases[number]


def _corpus_of(of: FileFormat) -> _Corpus:
    cases = [Mutant({**of.samples[0], **read_files(case)}, case.name) for case in corpus_cases(of.name)]
    return _Corpus(f"corpus/{of.name}", of.samples, (), of.use, of.names_file, cases)
