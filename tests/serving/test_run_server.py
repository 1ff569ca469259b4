"""The server as its user starts it: one line when it is ready, and ends that nobody has to wait for."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from mindspore_paged.cli import kept_main
from mindspore_paged.config import ServerSection
from mindspore_paged.serving.connections import address_of, listen
from mindspore_paged.serving.run import main
from mindspore_paged.serving.starting import answered_while_starting
from tests.cli_runs import SMALL
from tests.script_runs import ROOT
from tests.serving.running import MODEL

LONG = {"model": MODEL, "prompt": "Hello", "max_tokens": 55, "ignore_eos": True}

SLOW_SERVER = """
import sys, time
from mindspore_paged.launch.keeper import kept

def run():
    from mindspore_paged.engine.execution.model_runner import ModelRunner
    from mindspore_paged.serving.run import main
    compute = ModelRunner.run
    def run_slowly(self, inputs):
        time.sleep(0.02)
        if 99 in inputs.input_ids:
            raise RuntimeError("the device is gone")
        return compute(self, inputs)
    ModelRunner.run = run_slowly
    return main()

if __name__ == "__main__":
    sys.exit(kept(run))
"""
"""scripts/run_server.py with steps of 20 ms, and a token that ends the engine."""


class Server:
    """A server in a process of its own."""

    def __init__(self, script, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments), "--port", "0", "--set", *SMALL],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1] if self.line else None

    def ask(self, path, **body):
        """Status and JSON."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def in_background(self, **body):
        """Ask for a completion in a thread, and wait until it runs; returns the list of its answer, and the thread."""
        answers = []

        def ask():
            with suppress(OSError):  # of a server that was ended at once
                answers.append(self.ask("/v1/completions", **body))

        thread = threading.Thread(target=ask)
        thread.start()
        while not answers and self.num_running() == 0:
            time.sleep(0.02)
        return answers, thread

    def num_running(self):
        """Sequences that run, as /metrics tells it."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=20) as answer:
            (line,) = [line for line in answer if line.startswith(b"vllm:num_requests_running{")]
        return float(line.split()[-1])

    def end(self):
        """The exit code, and what was said on stderr; `requests` has what the access log says on stdout."""
        out, err = self.process.communicate(timeout=30)
        lines = [json.loads(line) for line in out.splitlines() if '"/metrics"' not in line]
        self.requests = [(line["method"], line["path"], line["status"], line.get("finish_reason")) for line in lines]
        return self.process.returncode, err


@pytest.fixture
def started(model_file, tmp_path):
    """Starts a slow server with further arguments, and leaves none running."""
    script = tmp_path / "slow_server.py"
    script.write_text(SLOW_SERVER)
    servers = []

    def start(*arguments):
        servers.append(Server(script, "--weights", model_file, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate()


def test_sigterm_lets_what_runs_end_and_takes_nothing_new(started):
    server = started("--served-model-name", "one", MODEL)
    assert server.line.startswith("serving one at http://127.0.0.1:")
    assert [card["id"] for card in server.ask("/v1/models")[1]["data"]] == ["one", MODEL]
    answers, thread = server.in_background(**LONG)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.ask("/ready")[0] == 503
    assert server.ask("/health")[0] == 200
    assert server.ask("/v1/completions", **LONG)[1]["error"]["code"] == "draining"
    assert server.end() == (0, "")
    thread.join()
    assert server.requests == [
        ("GET", "/v1/models", 200, None),
        ("GET", "/ready", 503, None),
        ("GET", "/health", 200, None),
        ("POST", "/v1/completions", 503, None),
        ("POST", "/v1/completions", 200, "length"),
    ]
    ((status, answer),) = answers
    assert (status, answer["usage"]["completion_tokens"]) == (200, 55)


@pytest.mark.slow
def test_what_takes_longer_than_the_drain_is_told_so(started):
    server = started("--set", "server.drain_seconds=0.2")
    answers, thread = server.in_background(**LONG)
    server.process.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0
    thread.join()
    ((status, answer),) = answers
    assert (status, answer["error"]["code"]) == (503, "aborted")


@pytest.mark.slow
def test_the_second_signal_ends_it_at_once(started):
    server = started()
    _, thread = server.in_background(**LONG, n=2)
    begin = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    server.process.send_signal(signal.SIGINT)
    assert server.end() == (130, "interrupted by SIGINT\n")
    assert time.monotonic() - begin < 0.9
    thread.join()


@pytest.mark.slow
def test_an_engine_that_fails_ends_the_server_with_one_line(started):
    server = started()
    answers, thread = server.in_background(**LONG)
    status, answer = server.ask("/v1/completions", model=MODEL, prompt=[99], max_tokens=2)
    assert (status, answer["error"]["code"]) == (500, "engine_failed")
    assert server.end() == (1, "error: the engine failed: the device is gone\n")
    thread.join()
    assert answers[0][0] == 500


def test_while_the_model_is_loaded_clients_are_told_to_try_again():
    options = ServerSection(port=0)
    listener = listen(options.host, options.port, options.connection_timeout)
    url = address_of(listener, "http") + "/health"
    with answered_while_starting(listener, options):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=20)
        assert (caught.value.code, caught.value.headers["retry-after"]) == (503, "1")
        assert json.loads(caught.value.read())["error"]["code"] == "starting"
    with listener, socket.create_connection(listener.getsockname()[:2], timeout=5):
        listener.accept()[0].close()  # it listens still, for the server that follows


def test_the_second_half_of_an_answer_does_not_wait_until_the_first_is_acknowledged():
    with listen("127.0.0.1", 0, 1.0) as listener, socket.create_connection(listener.getsockname(), timeout=5):
        with listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("arguments", "name"), [(["serve", "--help"], "run_server.py"), (["--help"], "run_generate.py")]
)
def test_the_installed_command_serves_or_generates(arguments, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mindspore-paged", *arguments])
    monkeypatch.setattr("mindspore_paged.cli.kept", lambda work: work())
    with pytest.raises(SystemExit):
        kept_main()
    assert capsys.readouterr().out.startswith(f"usage: {name} ")


def test_tls_by_files(shared_server, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    with shared_server.beside(tls_certificate=certificate, tls_key=key) as server:
        trusting = ssl.create_default_context(cafile=certificate)
        url = f"https://127.0.0.1:{server.port}/v1/models"
        with urllib.request.urlopen(url, context=trusting, timeout=20) as answer:
            assert json.loads(answer.read())["data"][0]["id"] == MODEL
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(url, timeout=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model: give --config FILE, --weights PATH, or --model DIR"),
        (["--model", "x", "--weights", "y"], "--model is a whole model; --config and --weights do not go with it"),
        (["--weights", "x", "--local-kernels"], "--verify-key and --local-kernels are of an exported model"),
        (["--weights", "x", "--port", "70000"], "server.port is 70000; it must be less than or equal to 65535"),
        (["--weights", "x", "--host", "256.1.1.1"], "server.host 256.1.1.1, server.port 8000: cannot listen there"),
        (["--weights", "x", "--api-key-file", "/nowhere"], "server.api_key_file is /nowhere: cannot read the keys"),
        (
            ["--weights", "x", "--set", "server.tls_certificate=/nowhere", "server.tls_key=/nowhere"],
            "server.tls_certificate /nowhere, server.tls_key /nowhere: No such file",
        ),
        (["--weights", "x", "--set", "server.prot=1"], "unknown key server.prot; did you mean server.port?"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_loaded(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_port_that_is_taken(shared_server, capsys):
    assert main(["--weights", "x", "--port", str(shared_server.port)]) == 2
    port = f"server.host 127.0.0.1, server.port {shared_server.port}"
    assert capsys.readouterr().err.startswith(f"error: {port}: cannot listen there: Address already in use")


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for part in ("curl http://127.0.0.1:8000/v1/chat/completions", "OpenAI(base_url=", "--api-key-file", "SIGTERM"):
        assert part in text
