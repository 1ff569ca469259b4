"""The comparison of paged and contiguous caches measures what it says, on a model that computes nothing of note."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_small_run(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "bench_paged_vs_contiguous.py")),
            *("--config", str(ROOT / "configs" / "tiny.yaml"), "--max-model-len", "64", "--requests", "4"),
            *("--output", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    contiguous, paged = json.loads((tmp_path / "out.json").read_text())
    assert (contiguous["policy"], paged["policy"]) == ("contiguous", "paged")
    assert contiguous["kv_cache_mb"] == paged["kv_cache_mb"]
    assert contiguous["largest_batch"] == 1
    assert contiguous["utilization"] == contiguous["budget_used"] <= 24 / 64, "a prompt and an answer of 12 at most"
    assert paged["largest_batch"] > 1
    assert paged["utilization"] > contiguous["utilization"]
    assert done.stdout.splitlines() == (tmp_path / "out.md").read_text().splitlines()
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_a_folder_that_is_not_there_is_refused_before_anything_runs(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "bench_paged_vs_contiguous.py")),
            *("--config", str(ROOT / "configs" / "tiny.yaml"), "--output", str(tmp_path / "none" / "out")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: --output {tmp_path / 'none' / 'out'}: its folder is not there\n"
