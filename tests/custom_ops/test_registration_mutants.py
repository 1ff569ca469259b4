"""The tests of what MindSpore and CANN are told notice every mistake that could be made there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutated_source import VARIABLE

TARGETS, OPS = "mindspore_paged.custom_ops.targets", "mindspore_paged.custom_ops.ops"
LAYERS, FOLDER = "mindspore_paged.custom_ops.layer_ops", "mindspore_paged.custom_ops.process_folder"
BUILD, CONTEXT = "mindspore_paged.custom_ops.build_ascend", "mindspore_paged.engine.building.context"
CELL = "mindspore_paged.engine.execution.compiled_cell"
WRITERS, PACKAGE = "custom_ops/test_writers_registered.py", "custom_ops/test_ascend_build.py"
PROCESS, LINE = "custom_ops/test_process_folder.py", "custom_ops/ascendc/test_op_host_refusal_line.py"

MUTANTS = (
    (TARGETS, '    op.add_prim_attr("side_effect_mem", True)\n', "", WRITERS),
    (TARGETS, "if name in CACHES:", 'if name == "key_cache":', WRITERS),
    (TARGETS, "if name in CACHES:", 'if name != "*":', WRITERS),
    (TARGETS, "hal.is_initialized(BACKENDS[backend].device)", "False", PACKAGE),
    (OPS, '*CACHES, "pages", "block_ids", "layer")', '*CACHES, "block_ids", "pages", "layer")', WRITERS),
    (LAYERS, '"cos_tables", "sin_tables")', '"cos_tables")', WRITERS),
    (LAYERS, '"layout", "options", "table",', '"layout", "options",', WRITERS),
    (CONTEXT, "    require_backend(runtime.ops_backend)\n", "", PACKAGE),
    (BUILD, '    check_opp_path(os.environ.get("ASCEND_OPP_PATH"))\n', "", PACKAGE),
    (BUILD, ' or "opp" in str(Path(path).parent)', "", PACKAGE),
    (BUILD, '":".join([str(package), *folders])', '":".join([*folders, str(package)])', PACKAGE),
    (BUILD, "    use_process_folder()\n    return package", "    return package", PROCESS),
    (FOLDER, "tempfile.mkdtemp(prefix=_prefix())", 'tempfile.mkdtemp(prefix=_prefix(), dir=".")', PROCESS),
    (FOLDER, 'return f"{PREFIX}{os.getpid()}_"', "return PREFIX", PROCESS),
    (FOLDER, "    if of_parent or not os.environ.get(WRAPPERS):\n", "    if True:\n", PROCESS),
    (FOLDER, "if of_parent or not", "if not", PROCESS),
    (FOLDER, "    atexit.register(_remove, folder, os.getpid())\n", "", PROCESS),
    (FOLDER, "Path(named).unlink()", "Path(named).exists()", PROCESS),
    (CELL, "if (refusal := take_refusal()) is not None:", "if (refusal := take_refusal()) is None:", LINE),
)
"""Module, a text in it, what stands there instead, and the tests that notice."""


@pytest.mark.slow
@pytest.mark.parametrize(("module", "text", "mistake", "tests"), MUTANTS, ids=range(len(MUTANTS)))
def test_the_mistake_is_noticed(module, text, mistake, tests):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.mutated_source", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, f"tests/{tests}"],
        cwd=Path(__file__).parents[2], env={**os.environ, VARIABLE: json.dumps([module, text, mistake])},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout  # some test failed; 2 and more: pytest itself
    assert " failed" in ran.stdout
