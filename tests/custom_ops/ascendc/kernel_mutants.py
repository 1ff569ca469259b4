"""Mistakes that kernels could have had, all of them in one library: a number says which one it makes."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mindspore_paged.custom_ops.build import OPS_ROOT, find_compiler
from mindspore_paged.custom_ops.build_emulator import ASCENDC_SOURCES, KERNEL_TYPES

SWITCH = "kernel_mutant"
"""The library's variable that says which mistake is made: its index in MUTANTS, or -1."""

CALLED = {
    "paged_attention_custom": ("half_half", "half_int8_t"),
    "reshape_and_cache_custom": ("half_half", "half_int8_t"),
}
CALLED |= {f"{verb}_blocks_custom": ("half", "int8_t") for verb in ("copy", "read", "write")}
"""The combinations of types that the library has; its entries name the others too."""


@dataclass(frozen=True)
class Mutant:
    """`mistake` in the place of an expression of a file of op_kernel, or of the nth that reads so."""

    file: str
    expression: str
    mistake: str
    nth: int = 0


def narrow(file: str, expression: str, nth: int = 0) -> Mutant:
    """The expression in 32 bits."""
    return Mutant(file, expression, f"static_cast<uint32_t>({expression})", nth)


IO, PLAN, SOFTMAX = "paged_attention_io.h", "paged_attention_plan.h", "online_softmax.h"
VECTOR, WEIGHTS, MATMUL = "paged_attention_vector.h", "cube_weights.h", "cube_matmul.h"
TILING, QUANTIZE = "paged_attention_tiling.h", "reshape_and_quantize.h"
COPY, READ, WRITE = (f"{verb}_blocks_custom.cpp" for verb in ("copy", "read", "write"))

MUTANTS = (
    # 32 bits where pages lie further
    narrow(IO, "static_cast<uint64_t>(block_table_.GetValue(entry)) * page_stride_"),
    narrow(IO, "page + head * head_dim_"),
    Mutant(IO, "page * sizeof(Cache) / sizeof(float) + head", "static_cast<uint32_t>(page) / 4 + head"),
    narrow("reshape_and_cache_custom.cpp", "slot * width + offset"),
    narrow(QUANTIZE, "static_cast<uint32_t>(slot) / tiling_.block_size * page_bytes_"),
    narrow(QUANTIZE, "page + inside * tiling_.token_width + offset"),
    narrow(QUANTIZE, "(page + page_values_)"),
    narrow(COPY, "destination * tiling_.block_bytes + offset"),
    narrow(COPY, "source * tiling_.block_bytes + offset"),
    narrow(READ, "id * tiling_.block_bytes + offset"),
    narrow(WRITE, "id * tiling_.block_bytes + offset"),
    # Places in pages, queries and results
    Mutant(IO, "left < wanted ? left : wanted", "wanted"),
    Mutant(IO, "page_values + page_scales * sizeof(float) / sizeof(Cache)", "page_values"),
    Mutant(IO, "(tiling_.num_heads - part.num_heads) * head", "0u"),
    Mutant(IO, "(tiling_.num_heads - part.num_heads) * head", "0u", nth=1),
    Mutant(IO, "token += num_cores", "token += 2 * num_cores"),
    Mutant(WEIGHTS, "(band.first_token - tile.run.first_token) * tiling_.group", "0u"),
    Mutant(WEIGHTS, "tile.run.first_token + half", "tile.run.first_token"),
    Mutant(MATMUL, "first_row * kFractal", "0u"),
    Mutant(MATMUL, "done == 0", "true"),
    # Who is padding, and who sees what
    Mutant(PLAN, "rows_.GetValue(token) < 0 || Context(token) <= 0", "Context(token) <= 0"),
    Mutant(PLAN, "rows_.GetValue(token) < 0 || Context(token) <= 0", "rows_.GetValue(token) < 0"),
    Mutant(PLAN, "context - window_", "context - window_ + 1"),
    Mutant(PLAN, "first_token + max_run_tokens_ - 1", "first_token + max_run_tokens_"),
    Mutant(PLAN, "rows_.GetValue(token) != row", "false"),
    Mutant(SOFTMAX, "LanesBefore(first, column) | ~LanesBefore(end, column)", "~LanesBefore(end, column)"),
    Mutant(TILING, "shapes.window < longest", "shapes.window < longest / 2"),
    # Sums, and what is put together of several cores
    Mutant(VECTOR, "(rows + 1) / 2", "rows / 2"),
    Mutant(VECTOR, "core <= last_core", "core < last_core"),
    Mutant(WEIGHTS, "core_ + blocks_on * kCubeVectorCores", "core_ + blocks_on"),
    Mutant(WEIGHTS, "(loaded + kLanes - 1) / kLanes * kLanes", "loaded / kLanes * kLanes"),
    Mutant(TILING, "2 * launch.block_dim", "launch.block_dim"),
    # What cores share out of the cache kernels
    Mutant("core_share.h", "units * (core + 1) / cores", "units * core / cores + units / cores"),
    Mutant("index_window.h", "i < first_ || i >= end_", "i >= end_"),
    Mutant(READ, "page < tiling_.num_ids ? 0 : 1", "page <= tiling_.num_ids ? 0 : 1"),
    Mutant(WRITE, "pages + tiling.layer * layer_bytes", "pages"),
    Mutant(COPY, "left < tiling_.piece_bytes ? left : tiling_.piece_bytes", "tiling_.piece_bytes"),
    Mutant(WRITE, "left < tiling_.piece_bytes ? left : tiling_.piece_bytes", "tiling_.piece_bytes"),
    Mutant(QUANTIZE, "offset / tiling_.head_dim", "0u"),
    Mutant(QUANTIZE, "i * PaddedScales(heads)", "i * heads"),
)  # fmt: skip


def with_mutants(file: str, text: str) -> str:
    """A file of op_kernel that makes the mistake of the switch's number; raises ValueError for one that is gone."""
    at_place: dict[int, list[int]] = {}
    for number, mutant in enumerate(MUTANTS):
        if mutant.file != file:
            continue
        at = -1
        for _ in range(mutant.nth + 1):
            at = text.find(mutant.expression, at + 1)
            if at < 0:
                raise ValueError(f"{file} has not, or not often enough: {mutant.expression}")
        at_place.setdefault(at, []).append(number)
    for at, numbers in sorted(at_place.items(), reverse=True):
        expression = MUTANTS[numbers[0]].expression
        mistakes = "".join(f"{SWITCH} == {number} ? ({MUTANTS[number].mistake}) : " for number in numbers)
        text = f"{text[:at]}({mistakes}({expression})){text[at + len(expression) :]}"
    return f'extern "C" int {SWITCH};\n{text}' if at_place else text


def build_mutants(folder: Path) -> Path:
    """Compile the operators with all mutants, without optimization, which takes the compiler longest."""
    sources = folder / "ascendc"
    shutil.copytree(ASCENDC_SOURCES, sources)
    for file in (sources / "op_kernel").iterdir():
        file.write_text(with_mutants(file.name, file.read_text()))
    flags = [*find_compiler(), "-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden"]
    flags += [f"-I{sources / 'emulator'}", f"-I{OPS_ROOT}", f"-I{folder}"]
    stubs = [
        f"void {kernel}_{'_'.join(types.values())}() {{}}"
        for kernel, combinations in KERNEL_TYPES.items()
        for types in combinations
        if "_".join(types.values()) not in CALLED.get(kernel, ())
    ]
    visible = f'__attribute__((visibility("default"))) int {SWITCH} = -1;'
    (folder / "stubs.cc").write_text(f'extern "C" {{ {visible} {" ".join(stubs)} }}')
    entries = sources / "emulator" / "ops"
    units = [(folder / "stubs.cc", "stubs")] + [(file, f"entry_{file.stem}") for file in entries.glob("*.cc")]
    for kernel, names in CALLED.items():
        for types in KERNEL_TYPES[kernel]:
            name = "_".join(types.values())
            if name in names:
                defines = [f"-D{macro}={type_name}" for macro, type_name in types.items()]
                unit = (sources / "op_kernel" / f"{kernel}.cpp", f"{kernel}_{name}", f"-D{kernel}={kernel}_{name}")
                units.append((*unit, *defines))

    def compile_unit(source: Path, name: str, *arguments: str) -> Path:
        target = folder / f"{name}.o"
        subprocess.run([*flags, *arguments, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda unit: compile_unit(*unit), units))
    library = folder / "mutants.so"
    subprocess.run([*flags, "-shared", *objects, "-o", library], check=True)
    return library
