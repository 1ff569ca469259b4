"""mindspore-paged doctor: each line says what is the case, and the exit code whether anything can run."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mindspore_paged import doctor
from mindspore_paged.custom_ops import build
from mindspore_paged.doctor import ABSENT, FINE, WRONG, Finding


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Make this machine's CPU one of x86-64 that has these features."""

    def become(features):
        (tmp_path / "cpuinfo").write_text(f"flags\t: {features}\n")
        monkeypatch.setattr(build, "CPU_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.delenv(build.ISA_VARIABLE, raising=False)

    return become


def test_what_is_installed_here_is_fine():
    for check in (doctor.check_python, doctor.check_packages, doctor.check_kernels, doctor.check_memory):
        assert check().verdict == FINE, check()
    assert f"{build.runnable_levels()[0].name}, the best that is compiled" in str(doctor.check_kernels())
    assert platform.python_version() in str(doctor.check_python())


def test_another_python_is_wrong(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.14.0rc1")
    finding = doctor.check_python()
    assert finding.verdict == WRONG
    assert finding.text.startswith("3.14.0rc1; mindspore_paged needs ")


def test_packages_that_are_missing_or_of_another_version_are_named(monkeypatch):
    def installed(name):
        if name == "gguf":
            raise PackageNotFoundError(name)
        return {"numpy": "2.1.0"}.get(name, real(name))

    real = doctor.version
    monkeypatch.setattr(doctor, "version", installed)
    finding = doctor.check_packages()
    assert finding.verdict == WRONG
    assert set(finding.text.split("; ")) == {"numpy 2.1.0, not <2", "gguf is not installed"}


def test_a_version_that_fits_is_no_fault(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda _name: "1.26.0rc1")
    assert doctor._fault(Requirement("numpy<2")) is None


def test_a_mindspore_that_cannot_be_imported_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    script = tmp_path / "python"
    for program, verdict, text in (
        ("echo Traceback >&2; echo 'ImportError: libgomp.so.1: cannot open' >&2; exit 1", WRONG, "libgomp.so.1"),
        ("exit 7", WRONG, "exit code 7"),
        ("echo 2.9.0", FINE, "2.9.0"),
    ):
        script.write_text(f"#!/bin/sh\n{program}\n")
        script.chmod(0o755)
        finding = doctor.check_mindspore()
        assert (finding.verdict, text in finding.text) == (verdict, True), finding


def test_kernels_that_are_missing_forced_or_broken(cpu, tmp_path, monkeypatch):
    cpu("cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx2 fma f16c")
    library = tmp_path / "libpaged_ops_cpu_avx2.so"
    monkeypatch.setattr(build.cpu_library, "__defaults__", (tmp_path,))
    finding = doctor.check_kernels()
    assert (finding.verdict, "avx2.so is missing; run `" in finding.text) == (WRONG, True)
    library.write_bytes(b"no library")
    assert doctor.check_kernels().verdict == WRONG
    monkeypatch.setenv(build.ISA_VARIABLE, "amx")
    assert "PAGED_OPS_ISA is amx, which this CPU cannot run" in doctor.check_kernels().text


def test_levels_that_could_be_compiled_are_told(cpu, tmp_path, monkeypatch):
    cpu("cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx2 fma f16c")
    monkeypatch.setattr(build.built_levels, "__defaults__", (tmp_path,))
    text = f"this CPU runs avx2, x86-64-v2; compiled: none; `{build.BUILD_COMMAND}` compiles the best"
    assert doctor.check_levels() == Finding(ABSENT, "CPU levels", text)


def test_tiles(cpu, tmp_path, monkeypatch):
    """By a library that says what the system does."""
    monkeypatch.setattr(build, "DEFAULT_OUTPUT_DIR", tmp_path)
    cpu("avx2")
    assert "this CPU lacks cx16" in doctor.check_tiles().text
    cpu(" ".join(next(level for level in build.LEVELS if level.name == "amx").features))
    assert "not compiled; `python -m mindspore_paged.custom_ops.build --isa amx`" in doctor.check_tiles().text
    (tmp_path / "libpaged_ops_cpu_amx.so").touch()
    for allowed, verdict, text in ((1, FINE, "allows it"), (0, ABSENT, "refuses it (arch_prctl)")):
        monkeypatch.setattr(build, "library_function", lambda *_names, allowed=allowed: lambda _use: allowed)
        finding = doctor.check_tiles()
        assert (finding.verdict, text in finding.text) == (verdict, True), finding


def test_a_machine_without_a_compiler_runs_all_the_same(monkeypatch, tmp_path):
    for compiler, text in (("no-such-compiler", "is not found; install g++"), ("false", "--version fails")):
        monkeypatch.setenv("CXX", compiler)
        finding = doctor.check_compiler()
        assert (finding.verdict, text in finding.text) == (ABSENT, True), finding


def test_memory_is_the_machines_and_the_containers(tmp_path, monkeypatch):
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(doctor, "MEMORY_INFO", info)
    monkeypatch.setattr(doctor, "MEMORY_LIMIT", limit)
    assert doctor.check_memory() == Finding(FINE, "memory", "16.4 GB, 8.2 GB available")
    limit.write_text("max\n")
    assert doctor.check_memory() == Finding(FINE, "memory", "16.4 GB, 8.2 GB available")
    limit.write_text("4000000000\n")
    assert doctor.check_memory().text == "16.4 GB, 8.2 GB available, at most 4.0 GB here"
    info.write_text("nothing")
    assert doctor.check_memory().verdict == ABSENT


def test_npu_and_demo_model_may_be_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("MINDSPORE_PAGED_CACHE", str(tmp_path))
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    assert (doctor.check_demo_model().verdict, doctor.check_npu().verdict) == (ABSENT, ABSENT)
    assert "no CANN: ASCEND_HOME_PATH is" in doctor.check_npu().text
    doctor.demo_model_path().write_bytes(b"x" * 2_000_000)
    assert doctor.check_demo_model().text.endswith(".gguf, 2 MB")


@pytest.mark.parametrize(("worst", "code"), [(FINE, 0), (ABSENT, 0), (WRONG, 1)])
def test_the_exit_code_tells_whether_anything_runs(monkeypatch, capsys, worst, code):
    given = [Finding(FINE, "Python", "3.11"), Finding(worst, "NPU", "none")]
    monkeypatch.setattr(doctor, "CHECKS", [lambda finding=finding: finding for finding in given])
    assert doctor.main([]) == code
    assert capsys.readouterr().out == f"ok Python       3.11\n{worst} NPU          none\n"


@pytest.mark.slow
def test_the_command():
    """In a process of its own, as it is installed; this machine runs the tests, so it can run the model."""
    command = [str(Path(sys.executable).with_name("mindspore-paged")), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, len(doctor.CHECKS)), done.stdout + done.stderr
    assert any(line.startswith("ok MindSpore") for line in lines)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {build.ISA_VARIABLE: "sse9"}
    )
    assert done.returncode == 1
    assert "NO CPU kernels  PAGED_OPS_ISA is 'sse9', which is no level of" in done.stdout
