"""The demo model says the same whichever of the CPU's libraries computes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.custom_ops.build import DEFAULT_OUTPUT_DIR, ISA_VARIABLE, build_cpu
from tests.custom_ops.kernel_builds import LOWER_LEVELS, NATIVE

ROOT = Path(__file__).parents[2]
PROGRAM = f"""
import json
from mindspore_paged import LLM, SamplingParams
from mindspore_paged.custom_ops.targets import library_of

prompts = [f"The {{word}} of France is" for word in ("capital", "king", "food", "history", "river", "language")]
with LLM({str(ROOT / "configs" / "smollm2_135m.yaml")!r}, show_progress=False) as llm:
    outputs = llm.generate(prompts, SamplingParams(max_tokens=32, ignore_eos=True))
print(json.dumps([library_of("cpu").name, [output.outputs[0].token_ids for output in outputs]]))
"""


def tokens_at(level) -> list[list[int]]:
    """What a process answers that runs this level's kernels."""
    build_cpu(DEFAULT_OUTPUT_DIR, level)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {ISA_VARIABLE: level.name, "GLOG_v": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    library, tokens = json.loads(done.stdout.splitlines()[-1])
    assert library == level.library_name
    return tokens


@pytest.fixture(scope="module")
def of_the_best(demo_model):
    return tokens_at(NATIVE)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER_LEVELS, ids=lambda level: level.name)
def test_greedy_tokens_are_equal_at_every_level(of_the_best, level):
    assert len({tuple(tokens) for tokens in of_the_best}) == len(of_the_best)
    assert tokens_at(level) == of_the_best
