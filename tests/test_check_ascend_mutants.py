"""scripts/check_ascend.py on kernels with a fault each: it names the case, goes on, and ends with exit code 1."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.custom_ops import build_emulator

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_ascend.py"
VARIABLE = "MUTANT_OF_THE_KERNELS"
MUTANT_HEADER = f"""#pragma once
#include <cstdlib>
#include <cstring>
inline bool Mutant(const char* name) {{
  const char* wanted = std::getenv("{VARIABLE}");
  return wanted != nullptr && std::strcmp(wanted, name) == 0;
}}
inline int MutantCalls() {{
  static int calls = 0;
  return calls++;
}}
"""

FAULTS = {
    "no_sync_all": (r"(AscendC::SyncAll<\w+>\(\);)", r'if (!Mutant("no_sync_all")) \1'),
    "offsets_of_32_bits": (
        r"(static_cast<uint64_t>\(block_table_\.GetValue\(entry\)\) \* page_stride_)",
        r'(Mutant("offsets_of_32_bits") ? static_cast<uint64_t>(static_cast<uint32_t>(\1)) : \1)',
    ),
    "last_token_left_out": (
        r"return (context - first < tile_tokens \? context - first : tile_tokens);",
        r'return (\1) - (Mutant("last_token_left_out") && index > 0 && context - first > 1 ? 1 : 0);',
    ),
    "largest_int8_of_126": (
        r"constexpr float kLargestInt8 = 127\.0f;",
        'static const float kLargestInt8 = Mutant("largest_int8_of_126") ? 126.0f : 127.0f;',
    ),
    "other_bits_each_time": (
        r"(GET_TILING_DATA\(tiling, tiling_gm\);\n  const paged_attention::)",
        r'GET_TILING_DATA(tiling, tiling_gm);\n  if (Mutant("other_bits_each_time")) '
        r"tiling.scale *= 1.0f + 1e-4f * MutantCalls();\n  const paged_attention::",
    ),
    "writes_to_nowhere": (
        r"(void read_blocks_custom\([^{]*\{)",
        r'\1 if (Mutant("writes_to_nowhere")) *static_cast<volatile int*>(nullptr) = 1;',
    ),
}
"""Name -> the text that it replaces in the kernels, and by what: switched on by the environment variable."""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The emulated operators, in which each fault can be switched on."""
    root = tmp_path_factory.mktemp("mutants")
    for folder in ("op_kernel", "emulator"):
        shutil.copytree(build_emulator.ASCENDC_SOURCES / folder, root / "ascendc" / folder)
    shutil.copytree(build_emulator.ASCENDC_SOURCES.parent / "op", root / "op")
    (root / "ascendc" / "op_kernel" / "mutant.h").write_text(MUTANT_HEADER)
    places = dict.fromkeys(FAULTS, 0)
    for file in (root / "ascendc" / "op_kernel").iterdir():
        text = original = file.read_text()
        for name, (pattern, replacement) in FAULTS.items():
            text, number = re.subn(pattern, replacement, text)
            places[name] += number
        if text != original:
            file.write_text(f'#include "mutant.h"\n{text}')
    assert all(places.values()), f"the kernels have no such text any more: {places}"
    with pytest.MonkeyPatch.context() as patch:
        # Without optimization, which takes the compiler longest.
        flags = tuple("-O0" if flag.startswith("-O") else flag for flag in build_emulator.EMULATOR_FLAGS)
        patch.setattr(build_emulator, "EMULATOR_FLAGS", flags)
        return build_emulator.build_emulator(root / "lib", sources=root / "ascendc")


def run_script(library, mutant, *groups):
    command = [sys.executable, str(SCRIPT), "--backend", "ascend_emulator", "--library", str(library)]
    environment = {**os.environ, VARIABLE: mutant}
    return subprocess.run([*command, "--only", *groups], capture_output=True, text=True, check=False, env=environment)


def verdicts(result):
    """Operator, shape and verdict of each line of the table."""
    lines = [line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| ")]
    return [(line[0].removeprefix("| "), line[1], line[5].removesuffix(" |")) for line in lines[2:]]


@pytest.mark.slow
def test_without_a_fault_all_is_right(library):
    result = run_script(library, "none", "split", "head_dim_80", "int8_writers")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {verdict for _, _, verdict in verdicts(result)} == {"ok, 2 times the same"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "group", "shape", "verdict", "unharmed"),
    [
        ("no_sync_all", "split", "contexts 16384", r"FAILED: .*the chip would not do this", "writers"),
        ("offsets_of_32_bits", "far_pages", "contexts 200/129", "WRONG", "tiles"),
        ("last_token_left_out", "tiles", "contexts 513/2000/4096", "WRONG", "writers"),
        ("largest_int8_of_126", "int8_writers", "K=8 D=128 T=40", "WRONG", "writers"),
        ("other_bits_each_time", "head_dim_80", "contexts 1100", r".*UNEQUAL: 1 of 2 runs differ", "writers"),
        ("writes_to_nowhere", "writers", "BS=128 K=8 D=128", "FAILED: ended by SIGSEGV", "tiles"),
    ],
)
def test_a_fault_is_named_and_the_check_goes_on(library, mutant, group, shape, verdict, unharmed):
    result = run_script(library, mutant, group, unharmed)
    assert result.returncode == 1, result.stderr
    found = verdicts(result)
    assert any(shape in of and re.match(verdict, said) for _, of, said in found), result.stdout
    assert f"group {unharmed}\n" in result.stderr
    if verdict.startswith("FAILED"):
        assert f"stopped in group {group}, at " in result.stderr
    assert sum(said == "ok, 2 times the same" for _, _, said in found) >= 3
    assert re.search(r": \d+ of \d+ WRONG", result.stdout.splitlines()[0])
