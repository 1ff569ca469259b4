"""Every synchronisation of paged_attention is needed, and the emulator notices when one is missing."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mindspore_paged.custom_ops.build import find_compiler
from mindspore_paged.custom_ops.build_emulator import ASCENDC_SOURCES
from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, VECTOR_VARIANT, EmulatedOps
from tests.custom_ops.ascendc.test_paged_attention_kernel import scene_of, with_padding
from tests.custom_ops.kernel_calls import INT8, OpRefusedError

SYNCHRONISATION = re.compile(
    r"^ +(VectorBarrier\(\)|paged_ops::OrderPipes<[^;]*>\(\)"
    r"|AscendC::(PipeBarrier|SyncAll|CrossCoreSetFlag)<[^;]*>\([^;]*\)|AscendC::CrossCoreWaitFlag\([^;]*\));$",
    re.MULTILINE,
)
KERNEL_FILES = (
    "online_softmax.h",
    "paged_attention_io.h",
    "paged_attention_vector.h",
    "paged_attention_cube.h",
    "cube_matmul.h",
)
EMULATOR, OP_KERNEL, KERNEL = ASCENDC_SOURCES / "emulator", ASCENDC_SOURCES / "op_kernel", "paged_attention_custom"
FLAGS = [*find_compiler(), "-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", f"-I{EMULATOR}"]
CALLED = ("half_half", "half_int8_t")
TYPES = ("float_half", "float_bfloat16_t", "bfloat16_t_bfloat16_t", "float_int8_t", "bfloat16_t_int8_t")
"""The combinations that the library's entries name and these tests do not call."""


def places():
    """Each statement that orders pipes or cores: file, its number there, and its text."""
    for name in KERNEL_FILES:
        text = (OP_KERNEL / name).read_text()
        for number, match in enumerate(SYNCHRONISATION.finditer(text)):
            yield name, number, match[1]


PLACES = list(places())


class Compiler:
    """Makes a library of a variant of the kernel, without optimization, which takes the compiler longest."""

    def __init__(self, directory: Path):
        stubs = directory / "stubs.cc"
        stubs.write_text(f'extern "C" {{{" ".join(f"void {KERNEL}_{types}() {{}}" for types in TYPES)}}}')
        entries = [EMULATOR / "ops" / f"{name}.cc" for name in ("paged_attention", "chip")]
        self.directory = directory
        self.shared_objects = [self._compile(source, source.stem) for source in (stubs, *entries)]

    def library(self, op_kernel: Path, name: str) -> Path:
        """Compile the kernel that stands in the folder `op_kernel`, for queries of float16."""
        kernels = []
        for types in CALLED:
            defines = [f"-D{KERNEL}={KERNEL}_{types}", f"-DDTYPE_KEY_CACHE={types.removeprefix('half_')}"]
            kernels.append(self._compile(op_kernel / f"{KERNEL}.cpp", f"{name}_{types}", *defines))
        library = self.directory / f"{name}.so"
        subprocess.run([*FLAGS, "-shared", *kernels, *self.shared_objects, "-o", library], check=True)
        return library

    def _compile(self, source: Path, name: str, *arguments: str) -> Path:
        target = self.directory / f"{name}.o"
        subprocess.run([*FLAGS, *arguments, "-c", source, "-o", target], check=True)
        return target


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return Compiler(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def mutants(compiler, tmp_path_factory):
    """For each of PLACES, a library without that statement."""

    def make(index):
        name, number, _ = PLACES[index]
        op_kernel = tmp_path_factory.mktemp(f"mutant{index}") / "op_kernel"
        shutil.copytree(OP_KERNEL, op_kernel)
        text = (op_kernel / name).read_text()
        start, end = list(SYNCHRONISATION.finditer(text))[number].span()
        (op_kernel / name).write_text(text[:start] + text[end:])
        return compiler.library(op_kernel, f"mutant{index}")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(make, range(len(PLACES))))


def run_everything(ops: EmulatedOps) -> None:
    """Both variants, over runs of tokens, cut tasks and padding."""
    scene = with_padding(scene_of([700, 1100, 70], [3, 1, 20], group=4, kv_heads=2, head_dim=80), [0, 4])
    for chip in ((6, 3, VECTOR_VARIANT), (40, 20, VECTOR_VARIANT), (6, 3, CUBE_VARIANT)):
        with ops.chip(*chip):
            ops.paged_attention(*scene.inputs())
    scene = with_padding(scene_of([700, 70], [3, 20], group=4, kv_heads=2, head_dim=96, cache_dtype=INT8), [0, 4])
    with ops.chip(6, 0, VECTOR_VARIANT):
        ops.paged_attention(*scene.inputs())


@pytest.mark.slow
def test_the_kernel_as_it_is_passes(catcher, compiler):
    run_everything(EmulatedOps(compiler.library(OP_KERNEL, "kernel"), catcher))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(PLACES)), ids=["-".join(map(str, place)) for place in PLACES])
def test_without_this_statement_the_kernel_is_refused(catcher, mutants, index):
    with pytest.raises(OpRefusedError, match="the chip would not do this"):
        run_everything(EmulatedOps(mutants[index], catcher))
