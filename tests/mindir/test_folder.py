"""Damaged and mismatching folders of exported models are refused, with a line that names the file and the fault."""

import json
import shutil
from pathlib import Path

import pytest

from mindspore_paged import cli
from mindspore_paged.errors import CheckpointError
from mindspore_paged.mindir import folder as folder_module
from mindspore_paged.mindir.folder import (
    ExportedWeight,
    MindIRFolder,
    folder_of_rank,
    is_mindir_folder,
    needs_of_this_cpu,
    write_manifest,
)
from mindspore_paged.model_config import model_config_by_name

FIXED = {"cache.block_size": 16, "runtime.ops_backend": "cpu"}


def write_folder(path: Path, cpu=None) -> Path:
    for name in ("step.mindir", "weights/00000.safetensors", "kernels/lib.so", "config.yaml"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode() * 100)
    write_manifest(
        path,
        model=model_config_by_name("tiny"),
        fixed=FIXED,
        weights={"a.weight": ExportedWeight("pack", "float32", (2, 3), 64)},
        num_blocks=8,
        token_buckets=(1, 8),
        rank=0,
        num_ranks=1,
        cpu=cpu or needs_of_this_cpu(portable=False),
        kernel_library="kernels/lib.so",
    )
    return path


@pytest.fixture
def exported(tmp_path) -> Path:
    return write_folder(tmp_path / "exported")


def edit_manifest(exported: Path, **changes) -> None:
    path = exported / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sound_folder_is_read_back(exported):
    folder = MindIRFolder(exported)
    assert is_mindir_folder(exported)
    assert folder.manifest.model == model_config_by_name("tiny")
    assert folder.manifest.token_buckets == (1, 8)
    assert folder.kernel_library == exported / "kernels" / "lib.so"
    assert set(folder.manifest.files) == {"step.mindir", "weights/00000.safetensors", "kernels/lib.so", "config.yaml"}


def test_a_moved_folder_is_sound(exported, tmp_path):
    MindIRFolder(Path(shutil.move(exported, tmp_path / "elsewhere")))


@pytest.mark.parametrize("name", ["step.mindir", "weights/00000.safetensors", "kernels/lib.so", "config.yaml"])
def test_a_changed_byte_is_seen(exported, name):
    content = bytearray((exported / name).read_bytes())
    content[50] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: changed since it was exported .its SHA-256"):
        MindIRFolder(exported)


def test_a_truncated_file_is_seen(exported):
    (exported / "step.mindir").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"step.mindir: changed since it was exported \(4 bytes, not 1100\)"):
        MindIRFolder(exported)


def test_a_missing_kernel_is_seen(exported):
    (exported / "kernels" / "lib.so").unlink()
    with pytest.raises(CheckpointError, match=r"kernels/lib.so: this file of the exported model is missing"):
        MindIRFolder(exported)


def test_another_mindspore_is_refused(exported):
    edit_manifest(exported, versions={"mindspore": "2.3.0"})
    with pytest.raises(CheckpointError, match=r"exported with MindSpore 2\.3\.0, and .* is installed here"):
        MindIRFolder(exported)


def test_another_op_backend_is_refused(exported):
    with pytest.raises(CheckpointError, match="exported with runtime.ops_backend cpu, and .* is ascend here"):
        MindIRFolder(exported).check_fixed(FIXED | {"runtime.ops_backend": "ascend"})


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "damaged manifest"),
        ("[]", "damaged manifest"),
        ('{"format": 99}', "format 99; this version reads format 4"),
    ],
)
def test_a_damaged_manifest_is_refused(exported, content, fault):
    (exported / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"manifest.json: {fault}"):
        MindIRFolder(exported)


def test_a_manifest_that_lacks_a_key_is_refused(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    del manifest["num_ranks"]
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="damaged manifest .num_ranks"):
        MindIRFolder(exported)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_files_outside_the_folder_are_refused(exported, name):
    edit_manifest(exported, files={name: {"bytes": 1, "sha256": ""}})
    with pytest.raises(CheckpointError, match="is not a path within the folder"):
        MindIRFolder(exported)


def test_kernels_of_another_cpu_are_refused(tmp_path, monkeypatch):
    native = write_folder(tmp_path / "native")
    portable = write_folder(tmp_path / "portable", cpu=needs_of_this_cpu(portable=True))
    monkeypatch.setattr(folder_module, "_cpu_features", lambda: {"sse2"})
    MindIRFolder(portable)
    with pytest.raises(CheckpointError, match="lib.so: compiled for another CPU, with .*--portable-kernels"):
        MindIRFolder(native)


def test_kernels_of_another_architecture_are_refused(tmp_path):
    exported = write_folder(tmp_path / "exported", cpu={"machine": "riscv64", "features": []})
    with pytest.raises(CheckpointError, match="lib.so: compiled for riscv64; this machine is"):
        MindIRFolder(exported)


def test_each_rank_finds_its_own_folder(tmp_path):
    for rank in (0, 1):
        write_folder(tmp_path / f"rank_{rank}")
    assert folder_of_rank(tmp_path, 1) == tmp_path / "rank_1"
    assert folder_of_rank(tmp_path / "rank_1", 0) == tmp_path / "rank_1"
    with pytest.raises(CheckpointError, match=r"rank_2: not an exported model; it lacks manifest.json"):
        folder_of_rank(tmp_path, 2)


def test_the_command_line_refuses_with_one_line(exported, capsys):
    (exported / "config.yaml").write_text("model: {weights: .}\n")
    assert cli.main(["--model", str(exported), "--prompt", "Hi"], of_mindir=True) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {exported / 'config.yaml'}: changed since it was exported")
    assert err.count("\n") == 1
    assert cli.main(["--model", str(exported / "weights"), "--prompt", "Hi"], of_mindir=True) == 2
    assert capsys.readouterr().err == f"error: {exported / 'weights'}: not an exported model; it lacks manifest.json\n"
