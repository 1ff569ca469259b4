"""custom_ops/build_emulator.py: every kernel once for each combination of types, in one library."""

import ctypes
import os

import pytest

from mindspore_paged.custom_ops import build, build_emulator
from mindspore_paged.custom_ops.ops import CopyBlocks
from mindspore_paged.errors import ConfigError

SIZES = {
    "float": 4,
    "half": 2,
    "bfloat16_t": 3,
    "int8_t": 1,
}  # of the stub's types: all different, to tell which one was meant
EMULATOR_HEADER = """
#pragma once
#include <cstdint>
struct half { char bytes[2]; };
struct bfloat16_t { char bytes[3]; };
"""
# Each kernel tells the sizes of its two types; those with one type read it twice.
KERNEL = """
#include "kernel_operator.h"
extern "C" int {kernel}() {{ return 10 * sizeof({first}) + sizeof({last}); }}
"""
FIRST_TYPE = {
    "reshape_and_cache_custom": "DTYPE_KEY",
    "paged_attention_custom": "DTYPE_QUERY",
    "rope_and_cache_custom": "DTYPE_QKV",
}
ONLY_TYPE = {"fused_add_rms_norm_custom": "DTYPE_X", "act_and_mul_custom": "DTYPE_GATE_UP"}
"""The type of kernels that see no cache."""
COMBINATIONS = {
    "reshape_and_cache_custom": [
        (key, cache) for key in ("float", "half", "bfloat16_t") for cache in ("half", "bfloat16_t", "int8_t")
    ],
    "paged_attention_custom": [
        ("float", "half"),
        ("float", "bfloat16_t"),
        ("half", "half"),
        ("bfloat16_t", "bfloat16_t"),
        ("float", "int8_t"),
        ("half", "int8_t"),
        ("bfloat16_t", "int8_t"),
    ],
    "rope_and_cache_custom": [
        (qkv, cache) for qkv in ("float", "half", "bfloat16_t") for cache in ("half", "bfloat16_t", "int8_t")
    ],
    "fused_add_rms_norm_custom": [("float",), ("half",), ("bfloat16_t",)],
    "act_and_mul_custom": [("float",), ("half",), ("bfloat16_t",)],
    "copy_blocks_custom": [("half",), ("bfloat16_t",), ("int8_t",)],
    "read_blocks_custom": [("half",), ("bfloat16_t",), ("int8_t",)],
    "write_blocks_custom": [("half",), ("bfloat16_t",), ("int8_t",)],
}
ENTRIES = {f"{kernel}_{'_'.join(types)}": types for kernel, all_types in COMBINATIONS.items() for types in all_types}


@pytest.fixture
def sources(tmp_path):
    """A tree of stubs: kernels, and MindSpore's entries, which are exported and call the kernels."""
    root = tmp_path / "ascendc"
    for folder in ("op_kernel", "emulator/ops", "op_host"):
        (root / folder).mkdir(parents=True)
    (root / "emulator" / "kernel_operator.h").write_text(EMULATOR_HEADER)
    for kernel in COMBINATIONS:
        last = ONLY_TYPE.get(kernel, "DTYPE_KEY_CACHE")
        text = KERNEL.format(kernel=kernel, first=FIRST_TYPE.get(kernel, last), last=last)
        (root / "op_kernel" / f"{kernel}.cpp").write_text(text)
    exported = "\n".join(
        f'extern "C" int {entry}();\nextern "C" __attribute__((visibility("default"))) int Call_{entry}() '
        f"{{ return {entry}(); }}"
        for entry in ENTRIES
    )
    (root / "emulator" / "ops" / "entries.cc").write_text('#include "kernel_operator.h"\n' + exported)
    return root


def identity(library):
    status = library.stat()
    return status.st_ino, status.st_mtime_ns


def test_each_combination_of_types_is_a_kernel_of_its_own(sources, tmp_path):
    library = build_emulator.build_emulator(tmp_path / "lib", sources=sources)
    assert library == tmp_path / "lib" / "libpaged_ops_ascend_emulator.so"
    assert sorted(os.listdir(library.parent)) == [library.name, library.with_suffix(".stamp").name]
    loaded = ctypes.CDLL(str(library))
    assert len(ENTRIES) == 40
    for entry, types in ENTRIES.items():
        first, cache = types[0], types[-1]
        assert getattr(loaded, f"Call_{entry}")() == 10 * SIZES[first] + SIZES[cache], entry
    with pytest.raises(AttributeError):  # -fvisibility=hidden: what is not exported does not clash with other libraries
        _ = loaded.copy_blocks_custom_half


@pytest.mark.parametrize("what", ["kernel", "emulator", "new header", "header of the CPU operators", "nothing"])
def test_it_is_built_again_when_a_source_changed(sources, tmp_path, what):
    first = identity(build_emulator.build_emulator(tmp_path / "lib", sources=sources))
    if what == "kernel":
        with (sources / "op_kernel" / "copy_blocks_custom.cpp").open("a") as file:
            file.write("// changed\n")
    elif what == "emulator":
        (sources / "emulator" / "kernel_operator.h").write_text(EMULATOR_HEADER + "\n")
    elif what == "new header":
        (sources / "op_kernel" / "new.h").write_text("\n")
    elif what == "header of the CPU operators":
        (sources.parent / "op").mkdir()
        (sources.parent / "op" / "aot_op.h").write_text("\n")
    again = identity(build_emulator.build_emulator(tmp_path / "lib", sources=sources))
    assert (again == first) == (what == "nothing")


def test_compile_error_shows_the_compilers_words_and_keeps_the_old_library(sources, tmp_path):
    library = build_emulator.build_emulator(tmp_path / "lib", sources=sources)
    first = identity(library)
    (sources / "op_kernel" / "read_blocks_custom.cpp").write_text("int One( { this is not C++\n")
    with pytest.raises(
        build.BuildError, match=r"^compiling the emulated Ascend operators failed .*read_blocks"
    ) as caught:
        build_emulator.build_emulator(tmp_path / "lib", sources=sources)
    assert "read_blocks_custom.cpp:1:" in str(caught.value)
    assert identity(library) == first
    assert sorted(os.listdir(library.parent)) == [library.name, library.with_suffix(".stamp").name]


def test_an_entry_whose_kernel_nobody_defines_is_told_at_once(sources, tmp_path):
    with (sources / "emulator" / "ops" / "entries.cc").open("a") as file:
        file.write('\nextern "C" int swap_blocks_custom_half();\nint Other() { return swap_blocks_custom_half(); }\n')
    with pytest.raises(build.BuildError, match="swap_blocks_custom_half"):
        build_emulator.build_emulator(tmp_path / "lib", sources=sources)


def test_a_missing_and_an_unknown_kernel_are_named(sources, tmp_path):
    kernel = sources / "op_kernel" / "copy_blocks_custom.cpp"
    kernel.rename(kernel.with_name("swap_blocks_custom.cpp"))
    with pytest.raises(build.BuildError, match=r"copy_blocks_custom\.cpp: the file is missing"):
        build_emulator.build_emulator(tmp_path / "lib", sources=sources)
    kernel.write_text("")
    with pytest.raises(build.BuildError, match=r"swap_blocks_custom\.cpp: its element types are not in KERNEL_TYPES"):
        build_emulator.build_emulator(tmp_path / "lib", sources=sources)


def test_command_prints_the_path(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "DEFAULT_OUTPUT_DIR", tmp_path / "lib")
    monkeypatch.setattr(build_emulator.build_emulator, "__kwdefaults__", {"sources": sources, "force": False})
    assert build.main(["--backend", "ascend_emulator"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'lib' / 'libpaged_ops_ascend_emulator.so'}\n"


def test_library_that_is_not_built_says_what_to_run(tmp_path, monkeypatch):
    with pytest.raises(
        build.BuildError, match=r"run `python -m mindspore_paged\.custom_ops\.build --backend ascend_em"
    ):
        build_emulator.emulator_library(tmp_path)
    monkeypatch.setattr("mindspore_paged.custom_ops.backends.emulator_library.__defaults__", (tmp_path,))
    with pytest.raises(ConfigError, match="--backend ascend_emulator"):
        CopyBlocks("ascend_emulator")
