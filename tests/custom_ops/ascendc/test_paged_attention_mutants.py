"""Every synchronisation of paged_attention is needed, and the emulator notices when one is missing."""

import itertools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mindspore_paged.custom_ops.build import OPS_ROOT, find_compiler
from mindspore_paged.custom_ops.build_emulator import ASCENDC_SOURCES, KERNEL_TYPES
from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, VECTOR_VARIANT, EmulatedOps
from tests.custom_ops.ascendc.test_paged_attention_kernel import scene_of, with_padding
from tests.custom_ops.kernel_calls import BFLOAT16, INT8, OpRefusedError

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
    "cube_products.h",
    "cube_weights.h",
    "cube_scales.h",
    "tile_widener.h",
)
EMULATOR, OP_KERNEL, KERNEL = ASCENDC_SOURCES / "emulator", ASCENDC_SOURCES / "op_kernel", "paged_attention_custom"
FLAGS = [*find_compiler(), "-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", f"-I{EMULATOR}", f"-I{OPS_ROOT}"]
SWITCH = "left_out_statement"
"""The library's variable that says which statement does not run: its index in PLACES."""
CALLED = ("half_half", "half_int8_t", "bfloat16_t_int8_t")
TYPES = ("float_half", "float_bfloat16_t", "bfloat16_t_bfloat16_t", "float_int8_t")
"""The combinations that the library's entries name and these tests do not call."""


def places():
    """Each statement that orders pipes or cores: file, its number there, and its text."""
    for name in KERNEL_FILES:
        text = (OP_KERNEL / name).read_text()
        for number, match in enumerate(SYNCHRONISATION.finditer(text)):
            yield name, number, match[1]


PLACES = list(places())


class Compiler:
    """Makes a library of the kernel, without optimization, which takes the compiler longest."""

    def __init__(self, directory: Path):
        self.directory = directory

    def library(self, op_kernel: Path) -> Path:
        """Compile the kernel that stands in the folder `op_kernel`, for queries of float16."""
        stubs = self.directory / "stubs.cc"
        switch = f'__attribute__((visibility("default"))) int {SWITCH} = -1;'
        entries_of_types = " ".join(f"void {KERNEL}_{types}() {{}}" for types in TYPES)
        stubs.write_text(f'extern "C" {{ {switch} {entries_of_types} }}')
        entries = [EMULATOR / "ops" / f"{name}.cc" for name in ("paged_attention", "chip")]
        commands = [(source, source.stem) for source in (stubs, *entries)]
        for types in CALLED:
            query, cache = next(k.values() for k in KERNEL_TYPES[KERNEL] if "_".join(k.values()) == types)
            defines = [f"-D{KERNEL}={KERNEL}_{types}", f"-DDTYPE_QUERY={query}", f"-DDTYPE_KEY_CACHE={cache}"]
            commands.append((op_kernel / f"{KERNEL}.cpp", types, *defines))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda command: self._compile(*command), commands))
        library = self.directory / "kernel.so"
        subprocess.run([*FLAGS, "-shared", *objects, "-o", library], check=True)
        return library

    def _compile(self, source: Path, name: str, *arguments: str) -> Path:
        target = self.directory / f"{name}.o"
        subprocess.run([*FLAGS, *arguments, "-c", source, "-o", target], check=True)
        return target


@pytest.fixture(scope="module")
def switched(catcher, tmp_path_factory):
    """The operators, of which each statement of PLACES can be left out: all mutants are one library."""
    folder = tmp_path_factory.mktemp("switched")
    op_kernel = folder / "op_kernel"
    shutil.copytree(OP_KERNEL, op_kernel)
    numbers = itertools.count()
    for name in KERNEL_FILES:
        text = (op_kernel / name).read_text()
        text = SYNCHRONISATION.sub(lambda match: f"if ({SWITCH} != {next(numbers)}) {match[0].lstrip()}", text)
        (op_kernel / name).write_text(f'extern "C" int {SWITCH};\n{text}')
    return EmulatedOps(Compiler(folder).library(op_kernel), catcher)


@contextmanager
def without(ops: EmulatedOps, index: int):
    """Leave out one statement of PLACES."""
    left_out = ops.number(SWITCH)
    left_out.value = index
    try:
        yield
    finally:
        left_out.value = -1


def run_everything(ops: EmulatedOps) -> None:
    """All variants, over runs of tokens, cut tasks and padding."""
    scene = with_padding(scene_of([700, 1100, 70], [3, 1, 20], group=4, kv_heads=2, head_dim=80), [0, 4])
    for chip in ((6, 3, VECTOR_VARIANT), (40, 20, VECTOR_VARIANT), (6, 3, CUBE_VARIANT)):
        with ops.chip(*chip):
            ops.paged_attention(*scene.inputs())
    scene = with_padding(scene_of([700, 70], [3, 20], group=4, kv_heads=2, head_dim=96, cache_dtype=INT8), [0, 4])
    for chip in ((6, 3, VECTOR_VARIANT), (6, 3, CUBE_VARIANT)):
        with ops.chip(*chip):
            ops.paged_attention(*scene.inputs())
    scene = scene_of([300, 70], [3, 20], group=4, kv_heads=1, head_dim=144)
    for chip in ((6, 3, VECTOR_VARIANT), (2, 1, CUBE_VARIANT)):
        with ops.chip(*chip):
            ops.paged_attention(*scene.inputs())
    scene = scene_of([2100, 70], [3, 20], group=4, head_dim=96, query_dtype=BFLOAT16, cache_dtype=INT8)
    with ops.chip(2, 1, CUBE_VARIANT):
        ops.paged_attention(*scene.inputs())


@pytest.mark.slow
def test_the_kernel_as_it_is_passes(switched):
    run_everything(switched)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(PLACES)), ids=["-".join(map(str, place)) for place in PLACES])
def test_without_this_statement_the_kernel_is_refused(switched, index):
    with without(switched, index), pytest.raises(OpRefusedError, match="the chip would not do this"):
        run_everything(switched)
