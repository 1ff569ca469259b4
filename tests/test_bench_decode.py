"""The decode benchmark, on a model that computes nothing of note."""

import json

import pytest

from tests.script_runs import TINY, error_of, run_script


@pytest.mark.slow
def test_two_variants_in_turn(tmp_path):
    done = run_script(
        *("bench_decode.py", "--config", TINY, "--batches", 1, 3, "--contexts", 32, 41, "--steps", 4),
        *("--prefill", 40, "--rounds", 2, "--output", tmp_path),
        *("--variant", "float32:", "--variant", "float16:cache.kv_cache_dtype=float16,model.seed=1"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench_decode.json").read_text())
    first, second = result["variants"]
    assert (first["name"], second["name"]) == ("float32", "float16")
    assert [(case["context"], case["batch"]) for case in first["decode"]] == [(32, 1), (32, 3), (41, 1), (41, 3)]
    for case in first["decode"]:
        assert case["ratio"] == 1
        assert len(case["rounds"]) == 2
        assert 0 < case["step_ms_p50"] <= case["step_ms_p99"]
    assert second["prefill_tokens_per_second"] > 0
    assert done.stdout.splitlines() == (tmp_path / "bench_decode.md").read_text().splitlines()
    assert (tmp_path / "bench_decode.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--batches", "0"], "--batches is 0; it must be at least 1"),
        (["--variant", "x=1"], "--variant 'x=1' must look like NAME:section.key=value,section.key=value"),
        (["--variant", "a:", "--variant", "a:"], "--variant: two have the same name"),
        (["--variant", "a:cache.blok_size=16"], "unknown key cache.blok_size; did you mean cache.block_size?"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, flags, line):
    assert error_of("bench_decode.py", "--config", TINY, "--output", tmp_path, *flags) == line


def test_a_context_that_the_model_has_not(tmp_path):
    line = error_of("bench_decode.py", "--config", TINY, "--output", tmp_path, "--contexts", 600, "--steps", 1)
    assert "the model has 512 positions" in line
