"""The folder of an exported model: what lies where, and whether it is still what was exported."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mindspore_paged.errors import CheckpointError
from mindspore_paged.files import write_text
from mindspore_paged.model_config import ModelConfig

FORMAT = 4
MANIFEST = "manifest.json"
CONFIG, GRAPH, WEIGHTS, TOKENIZER, KERNELS = "config.yaml", "step.mindir", "weights", "tokenizer", "kernels"


@dataclass(frozen=True)
class ExportedWeight:
    """A weight as the graph takes it: of `shape` and `dtype` from `offset` bytes of the graph's `parameter` on."""

    parameter: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Manifest:
    """What an exported model is, and the files that make it.

    fixed: for each key of the configuration that is part of the graph, its value. weights: by Hugging Face's names, as
    the files have them, those of one Parameter together. num_blocks, token_buckets: pages and graphs by default, free
    to choose at every start. cpu: what the kernel library needs of the machine: `machine` and the `features` of
    /proc/cpuinfo, or none if it is portable. files: size and SHA-256 by the path within the folder.
    """

    format: int
    model: ModelConfig
    fixed: dict[str, int | str]
    weights: dict[str, ExportedWeight]
    num_blocks: int
    token_buckets: tuple[int, ...]
    rank: int
    num_ranks: int
    versions: dict[str, str]
    cpu: dict[str, Any]
    kernel_library: str
    files: dict[str, dict[str, int | str]]


class MindIRFolder:
    """An exported model, its files checked: every one is there and has the bytes that were exported.

    Raises CheckpointError, which names the file, for one that is missing or changed; for another version of MindSpore;
    and for kernels that this machine cannot run.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.manifest = _read_manifest(self.path / MANIFEST)
        _check_version(self.path, self.manifest.versions)
        _check_files(self.path, self.manifest.files)
        _check_cpu(self.kernel_library, self.manifest.cpu)

    @property
    def graph(self) -> Path:
        """The step, as MindIR without the values of its Parameters."""
        return self.path / GRAPH

    @property
    def kernel_library(self) -> Path:
        """The library of the graph's operators."""
        return self.path / self.manifest.kernel_library

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files."""
        return sorted((self.path / WEIGHTS).glob("*.safetensors"))

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer, which is empty or missing if the model has none."""
        return self.path / TOKENIZER

    def check_fixed(self, chosen: Mapping[str, int | str]) -> None:
        """Raise CheckpointError if a configuration asks for what the graph is not."""
        for key, value in self.manifest.fixed.items():
            if chosen[key] != value:
                raise CheckpointError(
                    f"{self.path}: it was exported with {key} {value}, and {key} is {chosen[key]} here; "
                    "leave the key out, or export again"
                )


def is_mindir_folder(path: Any) -> bool:
    """Whether `path` is the folder of an exported model, or of one rank's part of it."""
    return isinstance(path, Path) and (path / MANIFEST).is_file()


def folder_of_rank(path: Path, rank: int) -> Path:
    """The folder that this rank loads: `path` itself, or the rank_N in it; raises CheckpointError if there is none."""
    path = Path(path).expanduser()
    folder = path / f"rank_{rank}" if (path / "rank_0").is_dir() else path
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: not an exported model; it lacks {MANIFEST}")
    return folder


def write_manifest(folder: Path, **fields) -> None:
    """Describe the files that are in `folder` now; fields: those of Manifest but format, versions and files."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    versions = {package: version(package) for package in ("mindspore", "mindspore_paged")}
    manifest = Manifest(format=FORMAT, versions=versions, files=files, **fields)
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")


def needs_of_this_cpu(portable: bool) -> dict[str, Any]:
    """What a kernel library that was compiled here needs of the machine that runs it."""
    return {"machine": platform.machine(), "features": [] if portable else sorted(_cpu_features())}


def _read_manifest(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format {data.get('format')!r}; this version reads format {FORMAT}")
        return TypeAdapter(Manifest).validate_python(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(f"{path}: damaged manifest ({where}: {problem['msg']})") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged manifest ({error})") from None


def _check_version(folder: Path, versions: Mapping[str, str]) -> None:
    here, exported = version("mindspore"), versions.get("mindspore")
    if here != exported:
        raise CheckpointError(
            f"{folder}: exported with MindSpore {exported}, and {here} is installed here; "
            f"install mindspore=={exported}, or export again"
        )


def _check_files(folder: Path, files: Mapping[str, Mapping[str, int | str]]) -> None:
    for name, expected in files.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise CheckpointError(f"{folder / MANIFEST}: damaged manifest ({name!r} is not a path within the folder)")
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: this file of the exported model is missing")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path}: changed since it was exported ({size} bytes, not {expected['bytes']})")
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path}: changed since it was exported (its SHA-256 is not that in {MANIFEST})")


def _check_cpu(library: Path, cpu: Mapping[str, Any]) -> None:
    if cpu.get("machine") != platform.machine():
        raise CheckpointError(f"{library}: compiled for {cpu.get('machine')}; this machine is {platform.machine()}")
    missing = sorted(set(cpu.get("features", ())) - _cpu_features())
    if missing:
        raise CheckpointError(
            f"{library}: compiled for another CPU, with {missing[0]}, which this one has not; "
            "export again with --portable-kernels"
        )


def _cpu_features() -> set[str]:
    """Instruction sets of this CPU, as Linux names them."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
