"""Runs of the scripts as a user starts them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny.yaml"


def run_script(name: str, *arguments) -> subprocess.CompletedProcess:
    """Run scripts/`name`, its output captured."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def error_of(name: str, *arguments) -> str:
    """The one line that a run which is refused writes, without a traceback."""
    done = run_script(name, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").strip()
