"""Damaged and mismatching folders of exported models are refused, with a line that names the file and the fault."""

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from mindspore_paged import cli
from mindspore_paged.config import load_config
from mindspore_paged.custom_ops import build
from mindspore_paged.custom_ops.build import ISA_VARIABLE, cpu_library, runnable_levels, sources_digest
from mindspore_paged.errors import CheckpointError
from mindspore_paged.mindir import folder as folder_module
from mindspore_paged.mindir.configuration import load_mindir_config
from mindspore_paged.mindir.folder import (
    ExportedWeight,
    KernelLibrary,
    MindIRFolder,
    folder_of_rank,
    is_mindir_folder,
    read_manifest,
    sign_manifest,
    write_manifest,
)
from mindspore_paged.models.registry import model_config_by_name

FIXED = {"cache.block_size": 16, "runtime.ops_backend": "cpu"}
MACHINE, BEST = platform.machine(), runnable_levels()[0].name


def write_folder(path: Path, levels=(BEST,), machine=MACHINE) -> Path:
    """An exported folder with a library of each level: kernels/lib.so the first, kernels/lib1.so, …"""
    libraries = [f"kernels/lib{number or ''}.so" for number in range(len(levels))]
    for name in ("step.mindir", "weights/00000.safetensors", *libraries, "config.yaml"):
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
        kernels=tuple(KernelLibrary(file, machine, level) for file, level in zip(libraries, levels)),
        kernel_sources=sources_digest(),
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
    with pytest.raises(CheckpointError, match="kernels/lib.so'?, a file of the exported model, is missing"):
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
        ('{"format": 99}', "format 99; this version reads format 7"),
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


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "weights/../../outside", "a//b", "", ".", "a\0b", "a\\b"]
)
def test_files_outside_the_folder_are_refused(exported, name):
    edit_manifest(exported, files={name: {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(CheckpointError, match="is not a path within the folder"):
        MindIRFolder(exported)


@pytest.fixture
def haswell(tmp_path, monkeypatch):
    """A machine whose CPU has AVX2, and no AVX-512."""
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t: cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx avx2 fma f16c\n")
    monkeypatch.setattr(build, "CPU_INFO", info)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv(ISA_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("levels", "chosen"),
    [
        (("avx2",), "lib.so"),
        (("amx", "x86-64-v2", "avx512", "avx2"), "lib3.so"),
        (("amx", "x86-64-v2", "avx512"), "lib1.so"),
        (("avx512", None), "lib1.so"),
    ],
)
def test_the_best_kernels_that_this_cpu_can_run_are_taken(tmp_path, haswell, levels, chosen):
    exported = write_folder(tmp_path / "exported", levels, "x86_64")
    assert MindIRFolder(exported).kernel_library == exported / "kernels" / chosen


def test_kernels_are_those_that_the_environment_names(tmp_path, haswell, monkeypatch):
    exported = write_folder(tmp_path / "exported", ("avx2", "x86-64-v2"), "x86_64")
    monkeypatch.setenv(ISA_VARIABLE, "x86-64-v2")
    assert MindIRFolder(exported).kernel_library.name == "lib1.so"
    only = write_folder(tmp_path / "only", ("avx2",), "x86_64")
    with pytest.raises(CheckpointError, match="kernels: compiled for avx2, and PAGED_OPS_ISA is x86-64-v2; export"):
        MindIRFolder(only)
    monkeypatch.setenv(ISA_VARIABLE, "amx")
    with pytest.raises(CheckpointError, match="kernels: PAGED_OPS_ISA is amx, which this CPU cannot run: it lacks"):
        MindIRFolder(exported)


def test_kernels_of_another_cpu_are_refused(tmp_path, haswell):
    exported = write_folder(tmp_path / "exported", ("amx", "avx1024"), "x86_64")
    with pytest.raises(CheckpointError) as error:
        MindIRFolder(exported)
    assert str(error.value) == (
        f"{exported / 'kernels'}: compiled for amx, avx1024, and this CPU runs avx2, x86-64-v2; "
        "export again with --portable-kernels"
    )


def test_kernels_of_another_architecture_are_refused(tmp_path):
    exported = write_folder(tmp_path / "exported", machine="riscv64")
    with pytest.raises(CheckpointError, match="kernels: compiled for riscv64; this machine is"):
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


# What a hostile folder may hold


def listed(exported: Path) -> dict:
    return json.loads((exported / "manifest.json").read_text())["files"]


def edit_listed(exported: Path, name: str, content: bytes) -> None:
    """Change a file as whoever exported the folder could: the manifest vouches for it."""
    (exported / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(exported, files=listed(exported) | {name: entry})


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"format":' * 50_000,
        b"\xff\xfe",
        b'{"format":4}',
        b'{"format":"' + b"x" * 100_000 + b'"}',
        b'{"format":' + b"9" * 5000 + b"}",
        b" " * (16 * 2**20 + 1),
    ],
    ids=["deep list", "deep object", "no text", "nothing", "long text", "long number", "large"],
)
def test_any_manifest_is_refused_in_one_line(exported, content):
    (exported / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        MindIRFolder(exported)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def weight(**changes) -> dict:
    return {"a.weight": {"parameter": "pack", "format": "float32", "shape": [2, 3], "offset": 64} | changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": weight(offset=-1)},
        {"weights": weight(offset=2**63)},
        {"weights": weight(offset=1.5)},
        {"weights": weight(shape=[-2, 3])},
        {"weights": weight(shape=[0])},
        {"weights": weight(shape=[10**30])},
        {"weights": weight(shape="2,3")},
        {"weights": weight(format=None)},
        {"weights": weight(format="object")},
        {"weights": weight(format="int8")},
        {"weights": weight(format="int8", shape=[34])},
        {"weights": weight(shape=[2, 3, 4])},
        {"weights": weight(shape=[])},
        {"weights": []},
        {"files": {"config.yaml": {}}},
        {"files": {"config.yaml": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": {"config.yaml": {"bytes": 1, "sha256": "0"}}},
        {"files": {}},
        {"kernels": [{"file": "/lib/libc.so", "machine": MACHINE, "level": None}]},
        {"kernels": [{"file": "../lib.so", "machine": MACHINE, "level": None}]},
        {"kernels": [{"file": "kernels/other.so", "machine": MACHINE, "level": None}]},
        {"kernels": [{"file": "kernels/lib.so", "machine": [], "level": None}]},
        {"kernels": [{"file": "kernels/lib.so", "machine": MACHINE, "level": 5}]},
        {"kernels": [{"file": "kernels/lib.so", "machine": MACHINE}]},
        {"kernels": []},
        {"kernels": {}},
        {"fixed": {"cache.block_size": None}},
        {"fixed": []},
        {"versions": {"mindspore": {}}},
        {"num_blocks": "many"},
        {"token_buckets": {"1": 1}},
        {"model": {"vocab_size": -1}},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_values_of_a_manifest_that_cannot_be(exported, changes):
    edit_manifest(exported, **changes)
    with pytest.raises(CheckpointError, match=r"manifest.json: damaged manifest \(") as error:
        MindIRFolder(exported)
    assert "\n" not in str(error.value)


def test_dimensions_that_contradict_each_other(exported):
    model = json.loads((exported / "manifest.json").read_text())["model"]
    edit_manifest(exported, model=model | {"num_key_value_heads": 3})
    with pytest.raises(CheckpointError, match=r"damaged manifest \(.*num_key_value_heads"):
        MindIRFolder(exported)


@pytest.mark.parametrize("fixed", [{}, {"cache.block_size": 16}, FIXED | {"another": 1}])
def test_what_is_fixed_must_be_said(exported, fixed):
    edit_manifest(exported, fixed=fixed)
    with pytest.raises(CheckpointError, match="it does not say what is fixed in the graph"):
        MindIRFolder(exported).check_fixed(FIXED)


def test_links_are_not_followed(exported, tmp_path):
    moved = tmp_path / "moved"
    for name in ("step.mindir", "weights"):
        (exported / name).rename(moved)
        (exported / name).symlink_to(moved)
        with pytest.raises(CheckpointError, match="a link or no file; an exported model is made of files in its own"):
            MindIRFolder(exported)
        (exported / name).unlink()
        moved.rename(exported / name)
    (tmp_path / "link").symlink_to(exported)
    MindIRFolder(tmp_path / "link")  # that is its user's own


def test_a_pipe_is_not_waited_for(exported):
    for name in ("step.mindir", "manifest.json"):
        content = (exported / name).read_bytes()
        (exported / name).unlink()
        os.mkfifo(exported / name)
        with pytest.raises(CheckpointError):
            MindIRFolder(exported)
        (exported / name).unlink()
        (exported / name).write_bytes(content)


def test_files_that_nobody_vouches_for_are_not_used(exported):
    (exported / "weights" / "00001.safetensors").write_bytes(b"more")
    (exported / "weights" / "more").mkdir()
    (exported / "notes.txt").write_text("mine")
    folder = MindIRFolder(exported)
    assert folder.weight_files == [exported / "weights" / "00000.safetensors"]
    (exported / "tokenizer").mkdir()
    assert MindIRFolder(exported)
    (exported / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer/tokenizer.json: is not listed in manifest.json"):
        MindIRFolder(exported)


def test_the_graph_that_is_run_is_the_one_that_was_checked(exported):
    folder = MindIRFolder(exported)
    assert folder.read_graph() == b"step.mindir" * 100
    for content in (b"x" * 1100, b"x", b"x" * 2000):
        (exported / "step.mindir").write_bytes(content)
        with pytest.raises(CheckpointError, match="step.mindir: (changed while it was loaded|cannot be read)"):
            folder.read_graph()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {weights: /elsewhere}", "model.weights is '/elsewhere'; it must be the folder itself"),
        ("model: {weights: ..}", "must be the folder itself"),
        ("model: {weights: random, name: tiny}", "must be the folder itself"),
        ("{}", "must be the folder itself"),
        ("model: {weights: ., tokenizer: /elsewhere}", "model.tokenizer is set; only who runs the model may set it"),
        ("model: {weights: ., verify_key: /dev/null}", "model.verify_key is set"),
        ("model: {weights: .}\ncache: {host_memory: 1MiB, page_files: /elsewhere}", "cache.page_files is set"),
        ("model: {weights: .}\ncache: {page_key: key}", "cache.page_key is set"),
        ("model: {weights: .}\nruntime: {event_log: /elsewhere}", "runtime.event_log is set"),
    ],
)
def test_a_configuration_that_reaches_out_of_the_folder(exported, text, message):
    edit_listed(exported, "config.yaml", text.encode())
    with pytest.raises(CheckpointError, match=f"config.yaml: .*{message}"):
        load_mindir_config(exported)


def test_who_runs_the_model_may_choose_files(exported, tmp_path):
    edit_listed(exported, "config.yaml", b"model: {weights: .}")
    config = load_mindir_config(exported, [f"model.tokenizer={tmp_path}", f"runtime.event_log={tmp_path}/log"])
    assert (config.model.weights, config.model.tokenizer) == (exported, tmp_path)
    assert load_mindir_config(exported) == load_config(exported / "config.yaml")


# Signed


@pytest.fixture
def key_file(tmp_path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    return path


def test_a_signed_folder_is_opened_by_those_who_know_the_key(exported, key_file):
    edit_listed(exported, "config.yaml", b"model: {weights: .}")
    sign_manifest(exported, b"k" * 32)
    MindIRFolder(exported)
    MindIRFolder(exported, b"k" * 32)
    config = load_mindir_config(exported, verify_key=key_file, local_kernels=True)
    assert (config.model.verify_key, config.runtime.local_kernels) == (key_file, True)


def test_without_the_signature_nothing_is_read(exported, key_file, monkeypatch):
    """Neither is the manifest parsed, nor any other file opened."""
    with pytest.raises(CheckpointError, match="it is not signed"):
        read_manifest(exported, b"k" * 32)
    sign_manifest(exported, b"k" * 32)
    signature = (exported / "manifest.hmac").read_bytes()
    for other in (b"", b"\xff" * 64, signature[:-2], signature * 2, b"0" * 64, b"x" * 1000):
        (exported / "manifest.hmac").write_bytes(other)
        with pytest.raises(CheckpointError, match=f"{exported}.*(not what was signed with this key|at most 256)"):
            read_manifest(exported, b"k" * 32)
    (exported / "manifest.hmac").write_bytes(signature)
    with pytest.raises(CheckpointError, match="not what was signed"):
        read_manifest(exported, b"l" * 32)
    edit_listed(exported, "kernels/lib.so", b"evil")
    monkeypatch.setattr(folder_module, "TypeAdapter", None)
    monkeypatch.setattr(folder_module, "check_file", None)
    with pytest.raises(CheckpointError, match=f"nothing of {exported} is loaded"):
        MindIRFolder(exported, b"k" * 32)
    with pytest.raises(CheckpointError, match=f"nothing of {exported} is loaded"):
        load_mindir_config(exported, verify_key=key_file)


def test_a_file_of_a_signed_folder_cannot_be_changed(exported):
    sign_manifest(exported, b"k" * 32)
    (exported / "kernels" / "lib.so").write_bytes(b"evil")
    with pytest.raises(CheckpointError, match="lib.so: changed since it was exported"):
        MindIRFolder(exported, b"k" * 32)


def test_the_command_line_verifies(exported, key_file, capsys):
    arguments = ["--model", str(exported), "--verify-key", str(key_file), "--prompt", "Hi"]
    assert cli.main(arguments, of_mindir=True) == 2
    assert capsys.readouterr().err == f"error: {exported}: not an exported model that can be used: it is not signed\n"
    key_file.chmod(0o644)
    assert cli.main(arguments, of_mindir=True) == 2
    assert "a key must be its user's alone" in capsys.readouterr().err


# The kernels that are installed here


def test_local_kernels_stand_in_where_they_are_of_the_same_sources(exported):
    assert MindIRFolder(exported, local_kernels=True).kernel_library == cpu_library()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kernel_sources": "0" * 64}, "its graph calls those of another version; run it with its own, or export"),
        ({"kernel_sources": ""}, "its graph calls kernels that it does not describe; run it with its own, or export"),
        ({"fixed": FIXED | {"runtime.ops_backend": "ascend_emulator"}}, "was not exported for the CPU's kernels"),
    ],
)
def test_local_kernels_are_refused_where_it_cannot_be_known(exported, changes, reason):
    edit_manifest(exported, **changes)
    with pytest.raises(CheckpointError, match=reason):
        MindIRFolder(exported, local_kernels=True)


def test_kernels_of_another_cpu_do_not_matter_to_local_ones(tmp_path):
    exported = write_folder(tmp_path / "exported", machine="riscv64")
    assert MindIRFolder(exported, local_kernels=True).kernel_library == cpu_library()
