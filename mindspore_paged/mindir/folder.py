"""The folder of an exported model: what lies where, and whether it is still what was exported."""

import hashlib
import hmac
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build import (
    ISA_VARIABLE,
    BuildError,
    cpu_library,
    forced_level,
    runnable_levels,
    sources_digest,
)
from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.files import write_text
from mindspore_paged.formats.weight_format import FORMATS, WeightFormat
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.wording import one_line, shortened

FORMAT = 7
MANIFEST = "manifest.json"
SIGNATURE = "manifest.hmac"
CONFIG, GRAPH, WEIGHTS, TOKENIZER, KERNELS = "config.yaml", "step.mindir", "weights", "tokenizer", "kernels"
MOST_MANIFEST_BYTES = 16 * 2**20
"""A model of 80 layers and a hundred files has some 200 KB."""
_MOST_SIGNATURE_BYTES = 256
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
_WEIGHT_FILE = re.compile(f"{WEIGHTS}/[^/]+\\.safetensors")


@dataclass(frozen=True)
class ExportedWeight:
    """A weight of the graph, from `offset` bytes of its `parameter` on; its rows are as a checkpoint has them.

    format: one of FORMATS by name. shape: as it is stored, where blocks are bytes.
    """

    parameter: str
    format: str
    shape: tuple[Annotated[int, Field(ge=1, lt=2**48)], ...]
    offset: Annotated[int, Field(ge=0, lt=2**63)]

    @property
    def form(self) -> WeightFormat:
        """The format itself; KeyError if there is none of the name."""
        return FORMATS[self.format]


@dataclass(frozen=True)
class KernelLibrary:
    """A library of operators in the folder: what it is called there, and which CPUs it is for.

    machine: their architecture, as `uname -m` names it. level: what they can do, one of custom_ops.build.LEVELS by
    name; None: whatever they can.
    """

    file: str
    machine: _Word
    level: _Word | None


@dataclass(frozen=True)
class ListedFile:
    """What a file of an exported model is."""

    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Format(BaseModel):
    format: Any = None


@dataclass(frozen=True)
class Manifest:
    """What an exported model is, and the files that make it.

    fixed: for each key of the configuration that is part of the graph, its value. weights: by Hugging Face's names, as
    the files have them, those of one Parameter together. num_blocks, token_buckets: pages and graphs by default, free
    to choose at every start. kernels: libraries of the operators, of which one that the machine can run is taken.
    files: by the path within the folder. kernel_sources: digest of what the kernels are compiled from; empty if that is
    not known.
    """

    format: int
    model: ModelConfig
    fixed: dict[str, bool | int | str]
    weights: dict[str, ExportedWeight]
    num_blocks: int
    token_buckets: tuple[int, ...]
    rank: int
    num_ranks: int
    versions: dict[str, _Word]
    kernels: Annotated[tuple[KernelLibrary, ...], Field(min_length=1)]
    files: dict[str, ListedFile]
    kernel_sources: str = ""


class MindIRFolder:
    """An exported model, its files checked: every one is there and has the bytes that were exported.

    Files that the manifest does not list are not used. verify_key: only a folder whose manifest was signed with this
    key is opened; without it whoever wrote the folder is trusted with what its kernels do. local_kernels: run the
    graph with the kernels that are installed here in place of the folder's. Of its kernels the best that this CPU can
    run are taken, or those that PAGED_OPS_ISA names.
    Raises CheckpointError, which names the file, for one that is missing or changed, or leads out of the folder; for
    another version of MindSpore; and for kernels that this machine cannot run.
    """

    def __init__(self, path: Path, verify_key: bytes | None = None, local_kernels: bool = False):
        self.path = Path(path)
        self.manifest = read_manifest(self.path, verify_key)
        _check_version(self.path, self.manifest.versions)
        for name in self.manifest.files:
            check_file(self.path, self.manifest, name)
        _check_tokenizer(self.path, self.manifest.files)
        self.kernel_library = self._local_kernels() if local_kernels else self._own_kernels()

    def _own_kernels(self) -> Path:
        """The best of the folder's libraries that this CPU can run; CheckpointError if there is none."""
        folder, machine = self.path / KERNELS, platform.machine()
        libraries = {each.level: self.path / each.file for each in self.manifest.kernels if each.machine == machine}
        if not libraries:
            other = self.manifest.kernels[0].machine
            raise CheckpointError(f"{folder}: compiled for {other}; this machine is {machine}")
        if None in libraries:
            return libraries[None]
        try:
            levels, forced = runnable_levels(), forced_level()
        except BuildError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        for level in levels:
            if level.name in libraries:
                return libraries[level.name]
        wanted = f"{ISA_VARIABLE} is" if forced else "this CPU runs"
        raise CheckpointError(
            f"{folder}: compiled for {one_line(', '.join(map(str, libraries)))}, and {wanted} "
            f"{', '.join(level.name for level in levels)}; export again with --portable-kernels"
        )

    def _local_kernels(self) -> Path:
        """The library that is installed here; CheckpointError unless it takes the calls that the graph makes."""
        backend = BACKENDS.get(self.manifest.fixed.get("runtime.ops_backend"))
        if backend is None or not backend.is_native:
            raise CheckpointError(f"{self.path}: was not exported for the CPU's kernels; run it with its own")
        exported = self.manifest.kernel_sources
        if exported != sources_digest():
            raise CheckpointError(
                f"{self.path}: cannot run with the kernels that are installed here: its graph calls "
                + ("those of another version" if exported else "kernels that it does not describe")
                + "; run it with its own, or export again"
            )
        try:
            return cpu_library()
        except BuildError as error:
            raise CheckpointError(str(error)) from None

    @property
    def arranges_weights(self) -> bool:
        """Whether the graph's operators read matrices in an order of their own: where whole layers are fused."""
        backend = BACKENDS.get(self.manifest.fixed.get("runtime.ops_backend"))
        return self.manifest.fixed.get("runtime.fused_ops") is True and backend is not None and backend.whole_layers

    @property
    def graph(self) -> Path:
        """The step, as MindIR without the values of its Parameters."""
        return self.path / GRAPH

    def read_graph(self) -> bytes:
        """The content of `graph`, checked again: what is run is what was checked, also if the file changed since."""
        expected = self.manifest.files[GRAPH]
        try:
            data = read_bounded(self.graph, expected.bytes)
        except OSError as error:
            raise CheckpointError(f"{self.graph}: cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise CheckpointError(f"{self.graph}: changed while it was loaded")
        return data

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files."""
        return [self.path / name for name in sorted(self.manifest.files) if _WEIGHT_FILE.fullmatch(name)]

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer, which is empty or missing if the model has none."""
        return self.path / TOKENIZER

    def check_fixed(self, chosen: Mapping[str, int | str]) -> None:
        """Raise CheckpointError if a configuration asks for what the graph is not."""
        if set(self.manifest.fixed) != set(chosen):
            raise CheckpointError(
                f"{self.path / MANIFEST}: damaged manifest (it does not say what is fixed in the graph)"
            )
        for key, value in self.manifest.fixed.items():
            if chosen[key] != value:
                raise CheckpointError(
                    f"{self.path}: it was exported with {key} {one_line(value)}, and {key} is {chosen[key]} here; "
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
        path.relative_to(folder).as_posix(): ListedFile(path.stat().st_size, _sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    versions = {package: version(package) for package in ("mindspore", "mindspore_paged")}
    manifest = Manifest(format=FORMAT, versions=versions, files=files, **fields)
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")


def sign_manifest(folder: Path, key: bytes) -> None:
    """Vouch for the manifest that is in `folder` now, and by it for every file that it lists."""
    write_text(folder / SIGNATURE, _signature((folder / MANIFEST).read_bytes(), key) + "\n")


def read_manifest(folder: Path, verify_key: bytes | None = None) -> Manifest:
    """The manifest of an exported model; nothing else is read. Raises CheckpointError if it is damaged or not signed.

    verify_key: what must have signed it; None asks for no signature.
    """
    path = folder / MANIFEST
    try:
        data = read_bounded(path, MOST_MANIFEST_BYTES)
        signature = read_bounded(folder / SIGNATURE, _MOST_SIGNATURE_BYTES) if verify_key is not None else b""
    except OSError as error:
        missing = "it is not signed" if isinstance(error, FileNotFoundError) and path.exists() else error.strerror
        raise CheckpointError(f"{folder}: not an exported model that can be used: {missing}") from None
    if verify_key is not None and not hmac.compare_digest(signature.strip(), _signature(data, verify_key).encode()):
        raise CheckpointError(f"{path}: not what was signed with this key; nothing of {folder} is loaded")
    try:
        found = _Format.model_validate_json(data).format
        if found != FORMAT:
            raise CheckpointError(f"{path}: format {shortened(found)}; this version reads format {FORMAT}")
        manifest = TypeAdapter(Manifest).validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(one_line(f"{path}: damaged manifest ({where}: {problem['msg']})")) from None
    except ConfigError as error:  # of the model's dimensions
        raise CheckpointError(one_line(f"{path}: damaged manifest ({error})")) from None
    _check_names(path, manifest)
    _check_weights(path, manifest)
    return manifest


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Raise CheckpointError unless the file has the bytes that were exported, and lies in the folder itself."""
    path, expected = folder / name, manifest.files[name]
    if not os.path.lexists(path):
        raise CheckpointError(f"{folder}: {shortened(name)}, a file of the exported model, is missing")
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder), name) or not path.is_file():
        raise CheckpointError(f"{path}: a link or no file; an exported model is made of files in its own folder")
    size = path.stat().st_size
    if size != expected.bytes:
        raise CheckpointError(f"{path}: changed since it was exported ({size} bytes, not {expected.bytes})")
    if _sha256(path) != expected.sha256:
        raise CheckpointError(f"{path}: changed since it was exported (its SHA-256 is not that in {MANIFEST})")


def _signature(manifest: bytes, key: bytes) -> str:
    return hmac.new(key, manifest, "sha256").hexdigest()


def _check_names(path: Path, manifest: Manifest) -> None:
    """Raise CheckpointError for files outside the folder, and where one that is needed is not listed."""
    for name in manifest.files:
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or "\0" in name or "\\" in name:
            raise CheckpointError(f"{path}: damaged manifest ({shortened(name)} is not a path within the folder)")
    for name in (CONFIG, GRAPH, *(library.file for library in manifest.kernels)):
        if name not in manifest.files:
            raise CheckpointError(f"{path}: damaged manifest ({shortened(name)} is not among its files)")


def _check_weights(path: Path, manifest: Manifest) -> None:
    """Raise CheckpointError for weights that no kernel could arrange: of no format, or in parts of blocks."""
    for name, weight in manifest.weights.items():
        form = FORMATS.get(weight.format)
        is_row = len(weight.shape) == 1 and form is not None and not form.block_bytes
        is_matrix = len(weight.shape) == 2 and form is not None and weight.shape[1] % max(1, form.block_bytes) == 0
        if not (is_row or is_matrix):
            raise CheckpointError(
                f"{path}: damaged manifest ({shortened(name)} cannot be {shortened(weight.format)} of shape "
                f"{shortened(weight.shape)})"
            )


def _check_tokenizer(folder: Path, files: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a file that whoever reads the tokenizer's folder would find, and nobody vouches for."""
    for path in sorted((folder / TOKENIZER).rglob("*")):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in files:
            raise CheckpointError(f"{path}: is not listed in {MANIFEST}; remove it, or export again")


def _check_version(folder: Path, versions: Mapping[str, str]) -> None:
    here, exported = version("mindspore"), versions.get("mindspore")
    if here != exported:
        raise CheckpointError(
            f"{folder}: exported with MindSpore {exported}, and {here} is installed here; "
            f"install mindspore=={exported}, or export again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
