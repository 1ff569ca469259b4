"""custom_ops/build.py: what is compiled when and for which CPUs, which of it is run, and how it fails."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.custom_ops import build

BUILD_FILE = Path(build.__file__)
SIMD_HEADER = build.CPU_SOURCES / "runtime" / "simd.h"

# Flags of /proc/cpuinfo, shortened to what matters here.
HASWELL = "fpu cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx avx2 fma f16c bmi2"
SKYLAKE = f"{HASWELL} avx512f avx512bw avx512cd avx512dq avx512vl"
ZEN_4 = f"{SKYLAKE} avx512_vnni avx512_bf16"
SAPPHIRE_RAPIDS = f"{ZEN_4} amx_tile amx_int8 amx_bf16"
CPUS = {
    "Nehalem": ("x86_64", "fpu cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2", "x86-64-v2"),
    "Haswell": ("x86_64", HASWELL, "avx2"),
    "Haswell without FMA": ("x86_64", HASWELL.replace(" fma", ""), "x86-64-v2"),
    "Knights Landing": ("x86_64", f"{HASWELL} avx512f avx512cd", "avx2"),
    "Skylake-SP": ("x86_64", SKYLAKE, "avx512"),
    "Ice Lake": ("x86_64", f"{SKYLAKE} avx512_vnni", "avx512_vnni"),
    "Zen 4": ("x86_64", ZEN_4, "avx512_bf16"),
    "Sapphire Rapids": ("x86_64", SAPPHIRE_RAPIDS, "amx"),
    "Sapphire Rapids whose system hides AMX": ("x86_64", ZEN_4, "avx512_bf16"),
    "Cortex-A72": ("aarch64", "fp asimd crc32", "neon"),
    "Neoverse N1": ("aarch64", "fp asimd crc32 asimddp", "dotprod"),
    "Neoverse V1": ("aarch64", "fp asimd crc32 asimddp i8mm sve", "i8mm"),
}
"""Of CPUs their architecture, features, and the best level that is made for such."""


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
    assert library == tmp_path / "lib" / build.runnable_levels()[0].library_name
    first = identity(library)
    build.build_cpu(tmp_path / "lib")
    assert identity(library) == first
    build.build_cpu(tmp_path / "lib", force=True)
    assert identity(library) != first


@pytest.mark.parametrize("what", ["source", "new header", "flags", "compiler", "library gone", "stamp gone"])
def test_whatever_the_library_depends_on_builds_it_again(tiny_source, tmp_path, monkeypatch, what):
    library = build.build_cpu(tmp_path / "lib")
    first = identity(library)
    if what == "source":
        tiny_source.write_text('extern "C" int One() { return 2; }\n')
    elif what == "new header":
        tiny_source.with_name("new.h").write_text("\n")
    elif what == "flags":
        monkeypatch.setattr(build, "CPU_FLAGS", (*build.CPU_FLAGS, "-DOTHER"))
    elif what == "compiler":
        monkeypatch.setenv("CXX", "g++ -DOTHER")
    elif what == "library gone":
        library.unlink()
    else:
        library.with_suffix(".stamp").unlink()
    assert identity(build.build_cpu(tmp_path / "lib")) != first


def test_only_library_and_stamp_are_left_behind(tiny_source, tmp_path):
    level = build.levels_of_machine()[-1]
    build.build_cpu(tmp_path / "lib", level)
    assert sorted(os.listdir(tmp_path / "lib")) == files_of(level)


def files_of(level):
    return [f"libpaged_ops_cpu_{level.name}.so", f"libpaged_ops_cpu_{level.name}.stamp"]


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
    assert sorted(os.listdir(tmp_path / "lib")) == files_of(build.runnable_levels()[0])


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
    best = build.runnable_levels()[0]
    assert build.main(["--backend", "cpu"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'lib' / best.library_name}\n"
    assert sorted(os.listdir(tmp_path / "lib")) == files_of(best)


def test_command_builds_the_levels_that_it_is_told(tiny_source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "DEFAULT_OUTPUT_DIR", tmp_path / "lib")
    levels = build.levels_of_machine()
    assert build.main(["--isa", levels[-1].name, levels[0].name, levels[-1].name]) == 0
    of_two = [str(tmp_path / "lib" / level.library_name) for level in (levels[0], levels[-1])]
    assert capsys.readouterr().out.splitlines() == of_two
    assert build.built_levels(tmp_path / "lib") == (levels[0], levels[-1])
    assert build.main(["--isa", "all"]) == 0
    assert build.built_levels(tmp_path / "lib") == levels
    tiny_source.write_text("int two;\n")
    assert build.built_levels(tmp_path / "lib") == ()  # from other sources


def test_command_names_the_levels_for_one_that_is_unknown(capsys):
    with pytest.raises(SystemExit):
        build.main(["--isa", "sse9"])
    assert build.levels_of_machine()[0].name in capsys.readouterr().err


def test_library_that_is_not_built_says_what_to_run(tmp_path):
    with pytest.raises(build.BuildError, match="run `python -m mindspore_paged.custom_ops.build`"):
        build.cpu_library(tmp_path)


# Which CPU runs what


@pytest.fixture
def no_choice(monkeypatch):
    monkeypatch.delenv(build.ISA_VARIABLE, raising=False)


@pytest.fixture
def become(tmp_path, monkeypatch, no_choice):
    """Make this machine another one of CPUS."""

    def become(name):
        machine, features, _ = CPUS[name]
        key = "Features" if machine == "aarch64" else "flags"
        info = tmp_path / "cpuinfo"
        core = f"processor\t: 0\nmodel name\t: {name}, no avx512f here\n{key}\t\t: {features}\nbugs\t\t: amx_tile\n"
        info.write_text(f"{core}\n{core}\n")
        monkeypatch.setattr(build, "CPU_INFO", info)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return become


def put_libraries(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"libpaged_ops_cpu_{name}.so").touch()
    return folder


@pytest.mark.parametrize("name", CPUS)
def test_the_best_level_that_a_cpu_can_run(become, tmp_path, name):
    become(name)
    best = CPUS[name][2]
    assert build.runnable_levels()[0].name == best
    folder = put_libraries(tmp_path / "lib", *(level.name for level in build.LEVELS))
    assert build.cpu_library(folder).name == f"libpaged_ops_cpu_{best}.so"


def test_the_best_of_those_that_are_built(become, tmp_path):
    become("Zen 4")
    folder = put_libraries(tmp_path / "lib", "x86-64-v2", "amx", "neon")
    assert build.cpu_library(folder).name == "libpaged_ops_cpu_x86-64-v2.so"
    put_libraries(folder, "avx2")
    assert build.cpu_library(folder).name == "libpaged_ops_cpu_avx2.so"


def test_what_is_built_for_better_cpus_alone_is_not_run(become, tmp_path):
    become("Haswell")
    folder = put_libraries(tmp_path / "lib", "amx", "avx512")
    with pytest.raises(build.BuildError, match=r"not compiled: .*_avx2.so is missing; run `.*build`$"):
        build.cpu_library(folder)


def test_another_level_by_the_environment(become, tmp_path, monkeypatch):
    become("Zen 4")
    folder = put_libraries(tmp_path / "lib", "avx512_bf16", "avx2")
    monkeypatch.setenv(build.ISA_VARIABLE, "avx2")
    assert build.cpu_library(folder).name == "libpaged_ops_cpu_avx2.so"
    assert [level.name for level in build.runnable_levels()] == ["avx2"]
    monkeypatch.setenv(build.ISA_VARIABLE, "")
    assert build.cpu_library(folder).name == "libpaged_ops_cpu_avx512_bf16.so"


RUN_BY_ZEN_4 = "allowed: avx512_bf16, avx512_vnni, avx512, avx2, x86-64-v2"


@pytest.mark.parametrize(
    ("isa", "message"),
    [
        ("sse9", f"PAGED_OPS_ISA is 'sse9', which is no level of x86_64; {RUN_BY_ZEN_4}"),
        ("neon", f"PAGED_OPS_ISA is 'neon', which is no level of x86_64; {RUN_BY_ZEN_4}"),
        (
            "amx",
            "PAGED_OPS_ISA is amx, which this CPU cannot run: it lacks amx_tile, amx_int8, amx_bf16; " + RUN_BY_ZEN_4,
        ),
        (
            "avx512",
            "PAGED_OPS_ISA is avx512, which is not compiled: {folder}/libpaged_ops_cpu_avx512.so is missing; "
            "run `python -m mindspore_paged.custom_ops.build --isa avx512`",
        ),
    ],
)
def test_a_level_that_cannot_be_had_is_refused(become, tmp_path, monkeypatch, isa, message):
    become("Zen 4")
    folder = put_libraries(tmp_path / "lib", "avx512_bf16", "avx2")
    monkeypatch.setenv(build.ISA_VARIABLE, isa)
    with pytest.raises(build.BuildError) as error:
        build.cpu_library(folder)
    assert str(error.value) == message.format(folder=folder)


def test_machines_that_nothing_is_made_for(become, tmp_path, monkeypatch):
    become("Haswell")
    build.CPU_INFO.write_text("flags : fpu sse2\n")
    with pytest.raises(build.BuildError, match="cannot run the operators of level x86-64-v2, the least: it lacks cx16"):
        build.cpu_library(tmp_path)
    monkeypatch.setattr(build, "CPU_INFO", tmp_path / "absent")
    with pytest.raises(build.BuildError, match="absent, which says what this CPU can do, cannot be read: No such"):
        build.cpu_library(tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(build.BuildError, match="no CPU operators for riscv64; there are for x86_64, aarch64"):
        build.cpu_library(tmp_path)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks the compiler of x86_64")
@pytest.mark.parametrize("level", build.levels_of_machine("x86_64"), ids=lambda level: level.name)
def test_the_compilers_flags_are_what_the_source_asks_for(level):
    """What simd.h finds with a level's flags: that level's ways to multiply, and none of a better one."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    command = ["g++", *level.flags, "-std=c++17", f"-I{build.OPS_ROOT}", "-dM", "-E", "-x", "c++", str(SIMD_HEADER)]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = set(re.findall(r"#define PAGED_OPS_(AVX512|AVX2|VNNI|AMX|AVX512_BF16) 1$", macros, re.MULTILINE))
    assert (
        found
        == {
            "x86-64-v2": set(),
            "avx2": {"AVX2"},
            "avx512": {"AVX512"},
            "avx512_vnni": {"AVX512", "VNNI"},
            "avx512_bf16": {"AVX512", "VNNI", "AVX512_BF16"},
            "amx": {"AVX512", "VNNI", "AMX"},
        }[level.name]
    )
    # __AVX512VNNI__ is avx512_vnni there: nothing is used that the CPU is not asked for.
    used = set(re.findall(r"#define __(AVX\w*|AMX_\w+|FMA|F16C|BMI2?|GFNI|VAES|LZCNT)__ 1$", macros, re.MULTILINE))
    asked = {feature.replace("_", "").upper() for feature in level.features} | {"AVX"}
    assert {name.replace("_", "") for name in used} <= asked
