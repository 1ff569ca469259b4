"""The comparison of paged and contiguous caches measures what it says, on a model that computes nothing of note."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.benchmarking.paging import PAGED, comparison_config, draw_requests, serve_on_paper
from mindspore_paged.benchmarking.prediction import predict
from mindspore_paged.models.registry import MODEL_CONFIGS

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny.yaml"


def run_bench(output: Path, *arguments: str) -> tuple[list[dict], str]:
    """The runs, and what was printed."""
    script = [sys.executable, str(ROOT / "scripts" / "bench_paged_vs_contiguous.py"), "--config", str(TINY)]
    done = subprocess.run([*script, *arguments, "--output", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(output.with_suffix(".json").read_text()), done.stdout


def test_a_small_run(tmp_path):
    (contiguous, paged), printed = run_bench(tmp_path / "out", "--max-model-len", "64", "--requests", "4")
    assert (contiguous["policy"], paged["policy"]) == ("contiguous", "paged")
    assert contiguous["kv_cache_mb"] == paged["kv_cache_mb"]
    assert contiguous["largest_batch"] == 1
    assert contiguous["utilization"] == contiguous["budget_used"] <= 24 / 64, "a prompt and an answer of 12 at most"
    assert paged["largest_batch"] > 1
    assert paged["utilization"] > contiguous["utilization"]
    assert printed.splitlines() == (tmp_path / "out.md").read_text().splitlines()
    assert (tmp_path / "out.png").stat().st_size > 10_000


SWAPPING = ["cache.host_memory=64MiB", "cache.swap=always"]  # a model so small computes a page sooner than it moves it


@pytest.mark.parametrize("overrides", [[], SWAPPING])
def test_paper_counts_the_preempted_and_their_pages(tmp_path, overrides):
    (contiguous, paged), _ = run_bench(
        tmp_path / "out", "--max-model-len", "256", "--requests", "12", *(["--set", *overrides] if overrides else [])
    )
    assert contiguous["num_preemptions"] == contiguous["num_pages_saved"] == 0
    assert paged["num_preemptions"] > 0
    assert (paged["num_pages_loaded"] > 0) == (paged["num_pages_saved"] > 0) == bool(overrides)
    config = comparison_config(TINY, overrides, 256)
    model = MODEL_CONFIGS["tiny"]
    served = serve_on_paper(config, model, PAGED, 256, draw_requests(256, 12, 0, model.vocab_size)).served
    for figure in ("num_preemptions", "num_pages_saved", "num_pages_loaded", "utilization", "largest_batch"):
        assert getattr(served, figure) == pytest.approx(paged[figure]), figure
    slow = paged | {"page_times": {"save_ms": 1e6, "load_ms": 2e6}}
    seconds = served.num_output_tokens / predict(slow, TINY, overrides, model)["tokens_per_second"]
    moving = 1e3 * served.num_pages_saved + 2e3 * served.num_pages_loaded
    assert moving <= seconds < moving + 100


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
