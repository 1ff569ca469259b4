"""custom_ops/build.py: what is compiled when, and how it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.custom_ops import build

BUILD_FILE = Path(build.__file__)


@pytest.fixture
def tiny_source(tmp_path, monkeypatch):
    """A source that compiles at once, in place of the operators'."""
    sources = tmp_path / "cpu"
    sources.mkdir()
    source = sources / "one.cc"
    source.write_text('extern "C" int One() { return 1; }\n')
    monkeypatch.setattr(build, "CPU_SOURCES", sources)
    return source


def identity(library):
    status = library.stat()
    return status.st_ino, status.st_mtime_ns


def test_build_needs_no_mindspore():
    """setup.py loads the file by its path, in an environment that has the standard library only."""
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('kernel_build', {str(BUILD_FILE)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert callable(module.build_cpu)\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


def test_up_to_date_library_is_left_alone(tiny_source, tmp_path):
    library = build.build_cpu(tmp_path / "lib")
    assert library == tmp_path / "lib" / "libpaged_ops_cpu.so"
    first = identity(library)
    build.build_cpu(tmp_path / "lib")
    assert identity(library) == first
    build.build_cpu(tmp_path / "lib", force=True)
    assert identity(library) != first


@pytest.mark.parametrize("what", ["source", "new header", "flags", "compiler", "cpu", "library gone", "stamp gone"])
def test_whatever_the_library_depends_on_builds_it_again(tiny_source, tmp_path, monkeypatch, what):
    library = build.build_cpu(tmp_path / "lib")
    first = identity(library)
    if what == "source":
        tiny_source.write_text('extern "C" int One() { return 2; }\n')
    elif what == "new header":
        tiny_source.with_name("new.h").write_text("\n")
    elif what == "flags":
        assert identity(build.build_cpu(tmp_path / "lib", portable=True)) != first
        return
    elif what == "compiler":
        monkeypatch.setenv("CXX", "g++ -DOTHER")
    elif what == "cpu":
        monkeypatch.setattr(build, "cpu_model", lambda: "another CPU")
    elif what == "library gone":
        library.unlink()
    else:
        library.with_suffix(".stamp").unlink()
    assert identity(build.build_cpu(tmp_path / "lib")) != first


def test_only_library_and_stamp_are_left_behind(tiny_source, tmp_path):
    build.build_cpu(tmp_path / "lib")
    assert sorted(os.listdir(tmp_path / "lib")) == ["libpaged_ops_cpu.so", "libpaged_ops_cpu.stamp"]


def test_compile_error_shows_the_compilers_words_and_keeps_the_old_library(tiny_source, tmp_path):
    library = build.build_cpu(tmp_path / "lib")
    first = identity(library)
    tiny_source.write_text("int One( { this is not C++\n")
    with pytest.raises(
        build.BuildError, match=r"^compiling the CPU operators failed with exit code 1: g\+\+ "
    ) as caught:
        build.build_cpu(tmp_path / "lib")
    assert "one.cc:1:" in str(caught.value)
    assert identity(library) == first
    assert sorted(os.listdir(tmp_path / "lib")) == ["libpaged_ops_cpu.so", "libpaged_ops_cpu.stamp"]


def test_missing_compiler_is_named(tiny_source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler: 'no-such-compiler' is not found; install g\\+\\+"):
        build.build_cpu(tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_command_fails_with_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.main(["--force"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: no C++ compiler")
    assert printed.err.count("\n") == 1


def test_command_prints_the_path(tiny_source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "DEFAULT_OUTPUT_DIR", tmp_path / "lib")
    assert build.main(["--backend", "cpu", "--portable"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'lib' / 'libpaged_ops_cpu.so'}\n"


def test_library_that_is_not_built_says_what_to_run(tmp_path):
    with pytest.raises(build.BuildError, match="run `python -m mindspore_paged.custom_ops.build`"):
        build.cpu_library(tmp_path)
