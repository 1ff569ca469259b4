"""The comparison with llama.cpp: its tools are shell scripts here that write what the real ones do."""

import json

import pytest

from mindspore_paged.benchmarking.llamacpp import LlamaTools
from mindspore_paged.errors import ConfigError
from tests import cli_runs
from tests.script_runs import error_of, run_script

BATCHED = """
echo "main: n_kv_max = 2048"
echo '{"n_kv_max": 2048, "pp": 16, "tg": 4, "pl": 1, "t_pp": 0.1, "speed_pp": 500.5, "t_tg": 0.5, "speed_tg": 40.25}'
echo '{"n_kv_max": 2048, "pp": 16, "tg": 4, "pl": 3, "t_pp": 0.1, "speed_pp": 400.5, "t_tg": 0.5, "speed_tg": 90.5}'
echo
"""
BENCH = """echo '[{"n_prompt": 24, "n_gen": 0, "avg_ns": 1, "avg_ts": 450.75, "stddev_ts": 0.0}]'"""
QUANTIZE = 'cp "$2" "$3"'


def make_tools(folder, **scripts):
    """llama.cpp's programs as shell scripts that also write their arguments to a log."""
    folder.mkdir(exist_ok=True)
    names = {"quantize": QUANTIZE, "batched_bench": BATCHED, "bench": BENCH} | scripts
    for name, script in names.items():
        path = folder / f"llama-{name.replace('_', '-')}"
        path.write_text(f'#!/bin/sh\necho "$0 $*" >> "{folder}/log"\n{script}\n')
        path.chmod(0o755)
    return folder


def test_what_the_tools_are_told_and_say(tmp_path):
    tools = LlamaTools(make_tools(tmp_path / "bin"), threads=2)
    assert tools.decode_rates(tmp_path / "m.gguf", [1, 3], 16, 4) == {1: 40.25, 3: 90.5}
    assert tools.prefill_rate(tmp_path / "m.gguf", 24) == 450.75
    batched, bench = (tmp_path / "bin" / "log").read_text().splitlines()
    for part in ("-npp 16 -ntg 4 -npl 1,3", "-c 60", "-t 2 -tb 2", "-ctk f16 -ctv f16", "--output-format jsonl"):
        assert part in batched
    for part in ("-p 24 -n 0", "-t 2", "-o json", "-ctk f16 -ctv f16"):
        assert part in bench


def test_a_program_that_is_missing(tmp_path):
    folder = make_tools(tmp_path / "bin")
    (folder / "llama-bench").unlink()
    with pytest.raises(ConfigError, match=r"no program llama-bench in it; build llama.cpp with"):
        LlamaTools(folder, threads=2)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'out of memory' >&2; exit 3", "llama-batched-bench failed with exit code 3: out of memory"),
        ("echo hello", "llama-batched-bench gave no result for batch 1"),
        ("echo '{\"pl\": 1'", "llama-batched-bench wrote what is not JSON"),
        ('echo \'{"pl": 1, "speed_tg": null}\'', "llama-batched-bench gave None as speed_tg"),
    ],
)
def test_a_program_that_fails(tmp_path, script, message):
    tools = LlamaTools(make_tools(tmp_path / "bin", batched_bench=script), threads=2)
    with pytest.raises(ConfigError, match=message):
        tools.decode_rates(tmp_path / "m.gguf", [1], 16, 4)


def test_a_file_half_made_is_not_kept(tmp_path):
    tools = LlamaTools(make_tools(tmp_path / "bin", quantize='echo half > "$3"; exit 1'), threads=2)
    with pytest.raises(ConfigError, match="llama-quantize failed"):
        tools.quantize(tmp_path / "m.gguf", tmp_path / "m.F32.gguf", "F32")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_small_run(tmp_path):
    model = cli_runs.write_gguf(tmp_path / "m.Q4_1.gguf")
    folder = make_tools(tmp_path / "bin")
    done = run_script(
        *("bench_vs_llamacpp.py", "--llama-bin", folder, "--model", model, "--precisions", "F32"),
        *("--batches", "1,3", "--context", 16, "--steps", 4, "--prefill", 24, "--rounds", 3, "--threads", 1),
        *("--output", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    (precision,) = result["precisions"]
    assert (precision["precision"], precision["file"]) == ("F32", "m.F32.gguf")
    assert list(precision["results"]) == ["batch 1", "batch 3", "prefill"]
    for name, theirs in (("batch 1", 40.25), ("batch 3", 90.5), ("prefill", 450.75)):
        of_case = precision["results"][name]
        assert of_case["rounds_llama_cpp"] == [theirs] * 3
        assert of_case["ratio"] == pytest.approx(of_case["ours"] / theirs), "theirs are all alike"
    assert done.stdout.splitlines() == (tmp_path / "out.md").read_text().splitlines()
    assert (tmp_path / "out.png").stat().st_size > 5_000
    order = [line.split()[0].rpartition("/")[2] for line in (folder / "log").read_text().splitlines()]
    assert order == ["llama-quantize"] + ["llama-batched-bench", "llama-bench"] * 3


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--weight-dtype", "Q8=int8"], "--weight-dtype 'Q8=int8' must look like PRECISION=VALUE; of F32, BF16, Q8_0"),
        (["--rounds", "0"], "--rounds is 0; it must be at least 1"),
        (["--model", "none.gguf"], "--model none.gguf: no such file"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, flags, line):
    folder = make_tools(tmp_path / "bin")
    assert error_of("bench_vs_llamacpp.py", "--llama-bin", folder, "--output", tmp_path, *flags).startswith(line)


def test_a_folder_without_llama(tmp_path):
    line = error_of("bench_vs_llamacpp.py", "--llama-bin", tmp_path, "--output", tmp_path)
    assert line.startswith(f"--llama-bin {tmp_path}: no program llama-quantize or llama-batched-bench or llama-bench")
