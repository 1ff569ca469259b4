"""Compiles op_host against stand-ins for CANN's headers, and runs it."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mindspore_paged.custom_ops.build import find_compiler

ROOT = Path(__file__).parents[3]
OP_HOST = ROOT / "custom_ops/ascendc/op_host"
OP_KERNEL = ROOT / "custom_ops/ascendc/op_kernel"
STAND_IN = Path(__file__).with_name("cann_stand_in")
FLAGS = ("-std=c++11", "-Wall", "-Wextra", "-Werror", "-O0")
"""As CANN's project compiles op_host."""

CACHE = "float16:9,16,4,32"
GOOD = {
    "ReshapeAndCacheCustom": ["float32:5,4,32", "float32:5,4,32", CACHE, CACHE, "int32:5"],
    "CopyBlocksCustom": [CACHE, CACHE, "int32:3,2"],
    "ReadBlocksCustom": [CACHE, CACHE, "int32:3"],
    "WriteBlocksCustom": [CACHE, CACHE, "float16:6,2,3,16,4,32", "int32:3"],
    "PagedAttentionCustom": ["float32:5,8,32", CACHE, CACHE, "int32:2,7", "int32:5", "int32:5"],
}
ATTENTION = "PagedAttentionCustom"
ATTRIBUTES = {"WriteBlocksCustom": "5", "PagedAttentionCustom": "0.25,0"}


def compile_driver(program: Path, sources: list[Path], *flags: str) -> Path:
    """Compile the program that runs these files of op_host; returns it."""
    command = [*find_compiler(), *FLAGS, *flags, f"-I{STAND_IN}", str(STAND_IN / "op_host_driver.cc")]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    return program


def compile_copy(folder: Path, changed: Mapping[str, str]) -> Path:
    """The program for paged_attention and read_blocks, of sources in which the files in `changed` have these texts."""
    for source in (OP_HOST, OP_KERNEL):
        shutil.copytree(source, folder / source.name)
    for name, text in changed.items():
        (folder / OP_HOST.name / name).write_text(text)
    sources = [folder / OP_HOST.name / f"{op}_custom.cpp" for op in ("paged_attention", "read_blocks")]
    return compile_driver(folder / "driver", sources)


def describe(driver: Path) -> dict[str, dict]:
    """What each op defines, by its name."""
    answer = subprocess.run([driver, "describe"], check=True, capture_output=True, text=True)
    return {definition["name"]: definition for definition in json.loads(answer.stdout)}


def run(driver, op, inputs=None, attributes=None, vector_cores=40, cube_cores=20, environment=None):
    """What the op sets for these inputs, or None; and what it said on stderr."""
    command = [driver, "run", op, vector_cores, cube_cores, attributes or ATTRIBUTES.get(op, "none")]
    answer = subprocess.run(
        [*map(str, command), *(inputs or GOOD[op])], check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(answer.stdout), answer.stderr
