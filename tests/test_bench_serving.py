"""The serving benchmark, on a model that computes nothing of note."""

import json

import pytest

from tests.script_runs import TINY, error_of, run_script
from tests.stub_server import StubServer


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


def test_a_server_by_its_clients(tmp_path):
    with StubServer(0.02, 0.005) as stub:
        done = run_script(
            *("bench_serving.py", "--base-url", stub.url, "--concurrency", 1, 3, "--num-requests", 4),
            *("--prompt-len", "6", "--output-len", "uniform:2:4", "--shared-prefix-len", 9, "--turns", 2),
            *("--goodput", "ttft:2000", "e2el:1", "--output", tmp_path / "out"),
        )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "out.json").read_text())
    one, three = result["runs"]
    assert (one["concurrency"], one["most_running"], three["concurrency"], three["most_running"]) == (1, 1, 3, 3)
    for run in (one, three):
        assert (run["num_requests"], run["num_failed"], run["num_short"]) == (6, 0, 0), "the first one counts apart"
        assert 20 <= run["first_ttft_ms"] < 2000
        assert 20 <= run["ttft_ms_p50"] < 2000
        assert 5 <= run["tpot_ms_p50"] < 500
        assert run["goodput_per_second"] == 0
    assert len(stub.requests) == 2 + 2 * 8, "two to wake it"
    assert len({request["messages"][0]["content"] for request in stub.requests}) == 3, "a system text for each run"
    assert done.stdout.splitlines() == (tmp_path / "out.md").read_text().splitlines()
    assert "client's CPU" in done.stdout
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_a_server_that_refuses(tmp_path):
    with StubServer(does={"": "refuse"}) as stub:
        done = run_script(
            *("bench_serving.py", "--base-url", f"{stub.url}/v1/", "--request-rate", "inf", "--num-requests", 2),
            *("--output", tmp_path),
        )
    assert done.returncode == 0
    assert done.stderr == "warning: inf requests/s: 2 requests failed; the first: 429: the queue is full\n"
    assert "| inf | 2 | - |" in done.stdout


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--turns", "2"], "--turns is for --base-url"),
        (["--concurrency", "2"], "--concurrency is for --base-url"),
        (
            ["--goodput", "fast"],
            "--goodput has 'fast'; it must be NAME:MILLISECONDS above 0, with a NAME of ttft, tpot, e2el",
        ),
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


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--set", "cache.block_size=32"], "--set is for --config: a server has its own configuration"),
        (
            ["--request-rate", "1", "--concurrency", "2"],
            "--request-rate and --concurrency are given; one of them says when requests come",
        ),
        (["--timeout", "0"], "--timeout is 0.0; it must be above 0"),
    ],
)
def test_bad_flags_for_a_server_are_one_line(tmp_path, flags, line):
    assert error_of("bench_serving.py", "--base-url", "http://127.0.0.1:1", "--output", tmp_path, *flags) == line


def test_lengths_that_the_engine_does_not_hold(tmp_path):
    line = error_of("bench_serving.py", "--config", TINY, "--output", tmp_path, "--prompt-len", "fixed:300")
    assert "but scheduler.max_model_len is 256" in line
