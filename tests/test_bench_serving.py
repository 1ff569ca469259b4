"""The serving benchmark, on a model that computes nothing of note."""

import json

import pytest

from tests.script_runs import TINY, error_of, run_script


def test_two_rates(tmp_path):
    done = run_script(
        *("bench_serving.py", "--config", TINY, "--request-rate", 50, "inf", "--num-requests", 6),
        *("--prompt-len", "lognormal:20:0.5:60", "--output-len", "uniform:1:6", "--output", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    paced, at_once = result["runs"]
    assert (paced["request_rate"], at_once["request_rate"]) == (50, "inf")
    for run in (paced, at_once):
        assert (run["num_requests"], run["num_failed"]) == (6, 0)
        assert all(1 <= len(request["token_times"]) <= 6 for request in run["requests"])
        tokens = sum(len(request["token_times"]) for request in run["requests"])
        assert run["output_tokens_per_second"] == pytest.approx(tokens / run["seconds"])
        assert 0 <= run["queued_ms_p50"] < run["ttft_ms_p50"] <= run["ttft_ms_p99"]
        assert max(run["steps"]["running"]) == run["most_running"] <= 4
    assert all(request["arrival"] == 0 for request in at_once["requests"])
    assert at_once["most_waiting"] > 0, "six requests, rows for four"
    assert done.stdout.splitlines() == (tmp_path / "out.md").read_text().splitlines()
    assert (tmp_path / "out.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--num-requests", "0"], "--num-requests is 0; it must be at least 1"),
        (["--request-rate", "0"], "--request-rate is 0.0; it must be above 0"),
        (
            ["--output-len", "some"],
            "--output-len is 'some'; it must be fixed:N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:MAX], "
            "in whole tokens from 1 on",
        ),
    ],
)
def test_bad_flags_are_one_line(tmp_path, flags, line):
    assert error_of("bench_serving.py", "--config", TINY, "--output", tmp_path, *flags) == line


def test_lengths_that_the_engine_does_not_hold(tmp_path):
    line = error_of("bench_serving.py", "--config", TINY, "--output", tmp_path, "--prompt-len", "fixed:300")
    assert "but scheduler.max_model_len is 256" in line
