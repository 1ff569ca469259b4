"""Every synchronisation of the kernels between a layer's products is needed, and so is what bounds and options say."""

import itertools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mindspore_paged.custom_ops.build_emulator import ASCENDC_SOURCES, KERNEL_TYPES
from tests.custom_ops.ascendc.emulated_ops import EmulatedOps
from tests.custom_ops.ascendc.layer_op_scenes import FLOAT16, FLOAT32, ActScene, NormScene, RopeScene
from tests.custom_ops.ascendc.test_paged_attention_mutants import FLAGS, SWITCH, SYNCHRONISATION, without
from tests.custom_ops.kernel_calls import INT8, OpRefusedError

EMULATOR, OP_KERNEL = ASCENDC_SOURCES / "emulator", ASCENDC_SOURCES / "op_kernel"
KERNELS = ("fused_add_rms_norm_custom", "rope_and_cache_custom", "act_and_mul_custom")
CALLED = ("half", "float", "half_half", "half_int8_t")
"""The types that these tests call; the library's entries name others, too."""
FILES = (
    *("wide_rows.h", "rms_norm_row.h", "fused_add_rms_norm_custom.cpp"),
    *("head_rows.h", "page_heads.h", "rope_and_cache_custom.cpp", "act_and_mul_custom.cpp"),
)
USERS = {
    "wide_rows.h": KERNELS,
    "rms_norm_row.h": ("fused_add_rms_norm_custom",),
    "head_rows.h": ("rope_and_cache_custom",),
    "page_heads.h": ("rope_and_cache_custom",),
}
"""The kernels that show what is wrong with a header."""
MISTAKES = [
    ("wide_rows.h", "CAST_RINT", "CAST_TRUNC"),
    ("rms_norm_row.h", "rest > 0", "false"),
    ("rms_norm_row.h", "1.0f / static_cast<float>(width_)", "1.0f"),
    ("rms_norm_row.h", "epsilon_, static_cast", "0.0f, static_cast"),
    ("rms_norm_row.h", "MulAddDst(squares_, row[column]", "MulAddDst(squares_, row[0]"),
    ("fused_add_rms_norm_custom.cpp", "row, tiling_.residual_scale", "row, 1.0f"),
    ("fused_add_rms_norm_custom.cpp", "writer_.Write(x_[first + column], row, piece);", ""),
    ("fused_add_rms_norm_custom.cpp", "if (!adds) return;", ""),
    ("fused_add_rms_norm_custom.cpp", "reader_.Read(other_, weight_[column]", "reader_.Read(other_, weight_[0]"),
    ("head_rows.h", "head_dim_ > kLanes", "false"),
    ("head_rows.h", "rows[column], weight[column]", "rows[column], weight[0]"),
    ("head_rows.h", "half_ = rotated / 2", "half_ = head_dim / 2"),
    ("head_rows.h", "Sub(first, by_cos_, by_sin_", "Add(first, by_cos_, by_sin_"),
    ("head_rows.h", "by_sin_[half_], first, sines", "by_sin_[half_], second, sines"),
    ("rope_and_cache_custom.cpp", "norm_weights_[kind * tiling_.head_dim]", "norm_weights_[0]"),
    ("rope_and_cache_custom.cpp", "if (kind != kValues) {", "{"),
    ("rope_and_cache_custom.cpp", "bias_[column], count", "bias_[0], count"),
    ("rope_and_cache_custom.cpp", "if (slot < 0 || static_cast<uint32_t>(slot) >= tiling_.num_slots) return;", ""),
    ("rope_and_cache_custom.cpp", "kind == kKeys ? 0 : 1, static_cast", "0, static_cast"),
    ("page_heads.h", "static_cast<uint64_t>(slot) * tiling_.num_kv_heads + head", "static_cast<uint64_t>(slot)"),
    ("page_heads.h", "page_values_) / sizeof(float) + inside", "page_values_) / sizeof(float)"),
    ("act_and_mul_custom.cpp", "tiling_.width + column, count", "column, count"),
    ("act_and_mul_custom.cpp", "tiling_.has_bias == 0", "tiling_.has_bias != 0"),
    ("act_and_mul_custom.cpp", "left < tiling_.part_width ? left", "left < tiling_.part_width ? tiling_.part_width"),
    ("act_and_mul_custom.cpp", "work_, kGeluCubic", "work_, 0.0f"),
]
"""Mistakes of arithmetic: what stands in a file, and what stands there instead."""


def statements():
    """Each statement that orders pipes: file, its number there, and its text."""
    for name in FILES:
        for number, match in enumerate(SYNCHRONISATION.finditer((OP_KERNEL / name).read_text())):
            yield name, number, match[1]


PLACES = list(statements())


class Compiler:
    """Makes the three operators' library, of kernels that may be changed ones, without optimization."""

    def __init__(self, folder: Path):
        self.folder, self.objects = folder, {}

    def library(self, op_kernel: Path, name: str, kernels=KERNELS) -> Path:
        """Compile `kernels` as they stand in the folder `op_kernel`; what else there is stays as it was."""
        units, stubs = {}, []
        for kernel in KERNELS:
            for types in KERNEL_TYPES[kernel]:
                suffix = "_".join(types.values())
                if suffix not in CALLED:
                    stubs.append(f"void {kernel}_{suffix}() {{}}")
                elif kernel in kernels:
                    defines = [f"-D{macro}={type_name}" for macro, type_name in types.items()]
                    arguments = [*defines, f"-D{kernel}={kernel}_{suffix}", f"-I{op_kernel}"]
                    units[f"{kernel}_{suffix}"] = (op_kernel / f"{kernel}.cpp", arguments)
        if not self.objects:
            rest = self.folder / "stubs.cc"
            switch = f'__attribute__((visibility("default"))) int {SWITCH} = -1;'
            rest.write_text(f'extern "C" {{ {switch} {" ".join(stubs)} }}')
            units |= {source.stem: (source, []) for source in (rest, EMULATOR / "ops" / "layer_ops.cc")}
            units["chip"] = (EMULATOR / "ops" / "chip.cc", [])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(lambda unit: self._compile(name, unit, *units[unit]), units)
            objects = self.objects | dict(zip(units, made))
        self.objects = self.objects or objects
        library = self.folder / f"{name}.so"
        subprocess.run([*FLAGS, "-shared", *objects.values(), "-o", library], check=True)
        return library

    def _compile(self, name: str, unit: str, source: Path, arguments: list[str]) -> Path:
        target = self.folder / f"{name}_{unit}.o"
        subprocess.run([*FLAGS, *arguments, "-c", source, "-o", target], check=True)
        return target


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return Compiler(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def switched(catcher, compiler):
    """The operators, of which each of PLACES can be left out: all these mutants are one library."""
    op_kernel = compiler.folder / "switched"
    shutil.copytree(OP_KERNEL, op_kernel)
    numbers = itertools.count()
    for name in FILES:
        text = (op_kernel / name).read_text()
        text = SYNCHRONISATION.sub(lambda match: f"if ({SWITCH} != {next(numbers)}) {match[0].lstrip()}", text)
        (op_kernel / name).write_text(f'extern "C" int {SWITCH};\n{text}')
    return EmulatedOps(compiler.library(op_kernel, "switched"), catcher)


def run_everything(ops: EmulatedOps) -> None:
    """Several tokens and pieces a core, all options, both kinds of pages."""
    with ops.chip(2, 0):
        for norms_added in (False, True):
            NormScene(5, 4176, FLOAT16, True, norms_added, 0.5, epsilon=1e-2).check(ops)
        NormScene(3, 64, FLOAT32, adds=False).check(ops)
        RopeScene(5, 12, 4, 128, FLOAT16, FLOAT16, rotated=96).check(ops)
        RopeScene(5, 24, 24, 96, FLOAT16, FLOAT16, norms_heads=False).check(ops)
        RopeScene(6, 8, 4, 64, FLOAT16, INT8).check(ops)
        for activation in (0, 1):
            ActScene(3, 4176, FLOAT16, activation).check(ops)
    with ops.chip(40, 0):
        RopeScene(4, 8, 4, 64, FLOAT16, INT8).check(ops)
        ActScene(3, 272, FLOAT16, has_bias=False).check(ops)


@pytest.mark.slow
def test_the_kernels_as_they_are_pass(switched):
    run_everything(switched)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(PLACES)), ids=["-".join(map(str, place)) for place in PLACES])
def test_without_this_statement_a_kernel_is_refused(switched, index):
    with without(switched, index), pytest.raises(OpRefusedError, match="the chip would not do this"):
        run_everything(switched)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "right", "wrong"), MISTAKES, ids=[f"{file}-{wrong}" for file, _, wrong in MISTAKES])
@pytest.mark.usefixtures("switched")
def test_a_mistake_is_noticed(catcher, compiler, tmp_path, file, right, wrong):
    op_kernel = tmp_path / "op_kernel"
    shutil.copytree(OP_KERNEL, op_kernel)
    text = (op_kernel / file).read_text()
    assert text.count(right) >= 1
    (op_kernel / file).write_text(text.replace(right, wrong))
    ops = EmulatedOps(compiler.library(op_kernel, tmp_path.name, USERS.get(file, (Path(file).stem,))), catcher)
    with pytest.raises((AssertionError, OpRefusedError)), np.errstate(invalid="ignore"):
        run_everything(ops)
