"""One server on loopback for all tests of this folder, over a model whose tokens are single bytes."""

import time

import pytest

from mindspore_paged import LLM
from tests import cli_runs
from tests.serving.running import RunningServer

SIZES = [
    *("scheduler.max_num_seqs=8", "scheduler.max_num_batched_tokens=32", "scheduler.token_buckets=[8,32]"),
    *("scheduler.max_model_len=128", "cache.num_blocks=65", "runtime.debug=true", "runtime.embeddings=true"),
    *("server.max_body_bytes=100000", "server.connection_timeout=1.0", "server.max_queued_requests=64"),
]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """The model as a GGUF file."""
    return cli_runs.write_gguf(tmp_path_factory.mktemp("served") / "tiny-model.gguf")


@pytest.fixture(scope="session")
def shared_server(model_file):
    with LLM(weights=model_file, overrides=SIZES, show_progress=False) as llm:
        with RunningServer(llm, llm.config.server) as server:
            yield server


@pytest.fixture
def slow(server, monkeypatch):
    """The server, with steps of 20 ms: an answer of 120 tokens takes 2.4 s."""
    runner = server.llm.engine.runner
    run = runner.run

    def run_slowly(inputs):
        time.sleep(0.02)
        return run(inputs)

    monkeypatch.setattr(runner, "run", run_slowly)
    return server


@pytest.fixture
def server(shared_server):
    """The server, of which a test must leave nothing behind: no request, no page."""
    yield shared_server
    shared_server.assert_idle()
