"""One server on loopback for all tests of this folder, over a model whose tokens are single bytes."""

import time

import pytest

from mindspore_paged import LLM
from mindspore_paged.sampling.constraint import Constraint
from mindspore_paged.tokenizer.chat_template import ChatTemplate
from mindspore_paged.tools.answer_forms import AnswerForms
from tests import cli_runs
from tests.serving.running import RunningServer
from tests.serving.scripted_answers import ScriptedAnswers

SIZES = [
    *("scheduler.max_num_seqs=8", "scheduler.max_num_batched_tokens=32", "scheduler.token_buckets=[8,32]"),
    *("scheduler.max_model_len=128", "cache.num_blocks=65", "runtime.debug=true", "runtime.embeddings=true"),
    *("server.max_body_bytes=100000", "server.connection_timeout=1.0", "server.max_queued_requests=64"),
]
LONG_SIZES = [
    *("scheduler.max_num_seqs=4", "scheduler.max_num_batched_tokens=256", "scheduler.token_buckets=[8,256]"),
    *("scheduler.max_model_len=4096", "cache.num_blocks=513", "runtime.debug=true"),
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


@pytest.fixture(scope="session")
def long_llm(tmp_path_factory):
    """The same model with room for chats about tools."""
    model_file = cli_runs.write_gguf(tmp_path_factory.mktemp("long") / "tiny-model.gguf", positions=4096)
    with LLM(weights=model_file, overrides=LONG_SIZES, show_progress=False) as llm:
        yield llm


@pytest.fixture
def long_server(long_llm):
    """A server of it, of which a test must leave nothing behind."""
    with RunningServer(long_llm, long_llm.config.server) as server:
        yield server
        server.assert_idle()


@pytest.fixture
def unheld(monkeypatch):
    """Tools that the model may call hold its answers to nothing."""
    monkeypatch.setattr(AnswerForms, "grammar", lambda *_: None)


@pytest.fixture
def speaking(long_llm, monkeypatch):
    """Serves the model with another chat template, and answers that are given: `with speaking(template, *answers)`."""

    def serve(template, *answers):
        monkeypatch.setattr(long_llm.tokenizer, "_chat_template", ChatTemplate(template, {"bos_token": "<s>"}))
        script = ScriptedAnswers(long_llm.tokenizer, answers)
        monkeypatch.setattr(long_llm.engine.sampler, "sample", script.sample)
        monkeypatch.setattr(Constraint, "forced", lambda _: [])  # the script says every token, also what is forbidden
        return RunningServer(long_llm, long_llm.config.server)

    return serve
