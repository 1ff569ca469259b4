"""Every example runs, and prints what it says it does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "batch": "'The capital of France is' -> ' Paris",
    "chat": "of the prompts' tokens were found in pages",
    "mindir": "weights/00000.safetensors",
    "prefix_sharing": "second batch: 2208 of 2248 prompt tokens were cached",
    "speculation": "4 guesses a step: 25 tokens in",
    "structured_output": "'flies': ",
    "tools": 'get_temperature({"city": ',
}
"""By name, a part of what is printed."""


def test_all_are_listed():
    assert sorted(EXAMPLES) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.py)" in listed for name in EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(demo_model, name):
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert EXAMPLES[name] in done.stdout
