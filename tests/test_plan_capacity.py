"""The planning script, and its predictions beside a measurement."""

import json
import subprocess
import sys

import pytest

from tests.script_runs import ROOT, TINY, error_of, run_script

LLAMA_70B = ROOT / "configs" / "llama2_70b.yaml"


def test_70b_on_eight_devices(tmp_path):
    done = run_script(
        *("plan_capacity.py", "--config", LLAMA_70B, "--device-memory", "64GB", "--tensor-parallel", 8),
        *("--output", tmp_path / "plan"),
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["kv_bytes_per_token_per_device"] == 327_680 // 8
    assert plan["weight_bytes_per_device"] == pytest.approx(137.95e9 / 8, rel=1e-3)
    lengths = [(result["policy"], result["max_model_len"]) for result in plan["results"]]
    assert lengths == [(policy, length) for length in (512, 1024, 2048) for policy in ("contiguous", "paged")]
    tokens = (plan["num_blocks"] - 1) * plan["block_size"]
    for contiguous, paged in zip(plan["results"][::2], plan["results"][1::2]):
        assert contiguous["largest_batch"] == tokens // contiguous["max_model_len"]
        assert paged["largest_batch"] > 3 * contiguous["largest_batch"]
        assert paged["tokens_per_second"] > contiguous["tokens_per_second"]
    assert done.stdout.splitlines() == (tmp_path / "plan.md").read_text().splitlines()
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_planning_needs_no_mindspore():
    program = f"""
import runpy, sys
sys.modules["mindspore"] = None  # an import of it fails
sys.argv = ["plan_capacity.py", "--config", {str(LLAMA_70B)!r}, "--tensor-parallel", "8", "--max-model-len", "512"]
runpy.run_path({str(ROOT / "scripts" / "plan_capacity.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--device-memory", "much"], "--device-memory is 'much'; it must be a size such as 64GB or 64GiB"),
        (["--tensor-parallel", "0"], "--tensor-parallel is 0; it must be at least 1"),
        (["--hbm-share", "0"], "--hbm-share is 0.0; it must be a positive number"),
        (["--prompt-len", "fixed:3"], "--prompt-len and --output-len go together"),
        (["--weight-bits", "nan"], "--weight-bits is nan; it must be above 0, at most 64"),
        (["--check-against", "none.json"], "[Errno 2] No such file or directory: 'none.json'"),
    ],
)
def test_bad_flags_are_one_line(flags, line):
    assert error_of("plan_capacity.py", "--config", TINY, *flags) == line


def made_up_result(path, **changes):
    """What the benchmark writes, of a machine whose steps take 1 ms and 2 us more for each token attended to."""
    run = {
        "policy": "contiguous",
        "max_model_len": 64,
        "kv_cache_mb": 5 * 16 * 2 * 2 * 2 * 16 * 4 / 1e6,
        "utilization": 0.2,
        "budget_used": 0.2,
        "largest_batch": 1,
        "tokens_per_second": 900.0,
        "num_preemptions": 0,
        "page_times": {"save_ms": 0.5, "load_ms": 0.25},
        "num_requests": 4,
        "seed": 0,
        "step_times": [
            {"bucket": bucket, "num_tokens": bucket, "attended": attended, "ms": 1 + 0.002 * attended}
            for bucket in (1, 2, 4, 8, 12, 16, 64)
            for attended in (16 * bucket, 40 * bucket)
        ],
    } | changes
    path.write_text(json.dumps([run]))
    return path


def test_a_check_says_what_is_off(tmp_path):
    result = made_up_result(tmp_path / "result.json", utilization=0.9)
    done = run_script("plan_capacity.py", "--config", TINY, "--check-against", result, "--output", tmp_path / "check")
    assert done.returncode == 1
    assert "off by more than 15%" in done.stderr
    of_figure = {c["figure"]: c for c in json.loads((tmp_path / "check.json").read_text())}
    assert of_figure["kv_cache_mb"]["difference"] == pytest.approx(0)
    assert of_figure["largest_batch"]["difference"] == 0
    assert of_figure["utilization"]["predicted"] < 0.3
    # A token takes a step of a millisecond and less than 24 tokens' attention; a prompt's step gives one as well.
    assert 1000 / (1 + 0.002 * 300) < of_figure["tokens_per_second"]["predicted"] < 1000


@pytest.mark.parametrize("lacking", [{"step_times": []}, {"page_times": None}, {"page_times": {"save_ms": 1}}])
def test_a_result_of_something_else_is_refused(tmp_path, lacking):
    result = made_up_result(tmp_path / "result.json", **lacking)
    line = error_of("plan_capacity.py", "--config", TINY, "--check-against", result)
    assert line == f"{result}: not what bench_paged_vs_contiguous.py writes today (with step_times, page_times)"
