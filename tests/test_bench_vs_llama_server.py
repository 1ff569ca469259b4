"""The comparison with llama-server, whose place a server takes that computes nothing."""

import json
import sys

import pytest

from tests.cli_runs import write_gguf
from tests.script_runs import ROOT, error_of, run_script

STUB = f"""#!{sys.executable}
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from tests.stub_server import StubServer
print(" ".join(sys.argv[1:]), flush=True)
with StubServer(0.05, 0.01, port=int(sys.argv[sys.argv.index("--port") + 1])):
    threading.Event().wait()
"""
SMALL = [
    *("--concurrency", "1", "2", "--requests-per-client", "2", "--prompt-len", "3", "--output-len", "4"),
    *("--shared-prefix-len", "5", "--num-shared", "3", "--max-model-len", "120", "--threads", "1"),
]


def stub(folder, text=STUB):
    program = folder / "llama-server"
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.mark.slow
def test_pairs_are_measured_and_compared(tmp_path):
    done = run_script(
        *("bench_vs_llama_server.py", "--llama-server", stub(tmp_path), "--models", write_gguf(tmp_path / "m.gguf")),
        *(*SMALL, "--rounds", "1", "--output", tmp_path / "out"),
        *("--set", "scheduler.max_num_batched_tokens=32", "scheduler.token_buckets=[8,32]"),
    )
    assert done.returncode == 0, done.stderr
    (model,) = json.loads((tmp_path / "out.json").read_text())["models"]
    ours, theirs = model["figures"]["ours"], model["figures"]["llama-server"]
    assert list(ours) == list(theirs) == ["1 clients", "2 clients", "shared prefix"]
    assert 50 <= theirs["1 clients"]["ttft_ms_p50"][0] < 500
    assert 10 <= theirs["1 clients"]["tpot_ms_p50"][0] < 100
    assert 50 <= theirs["shared prefix"]["first_ttft_ms"][0] < 500
    assert all(value > 0 for figures in ours.values() for values in figures.values() for value in values)
    assert (tmp_path / "out.md").read_text().splitlines() == done.stdout.splitlines()
    assert (tmp_path / "out.png").stat().st_size > 5_000


def test_what_is_not_there_is_told(tmp_path):
    line = error_of("bench_vs_llama_server.py", "--llama-server", "/nowhere", "--models", "m", "--output", tmp_path)
    assert line == "--llama-server /nowhere: no such program"
    line = error_of("bench_vs_llama_server.py", "--llama-server", stub(tmp_path), "--models", "m", "--output", tmp_path)
    assert line == "--models m: no such file"
