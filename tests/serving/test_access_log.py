"""What is logged of a request, and what never is."""

import asyncio
import io
import json
import logging
import threading
import time

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from mindspore_paged import SamplingParams
from mindspore_paged.serving import access_log
from mindspore_paged.serving.access_log import AccessLog, log, write_access_line
from mindspore_paged.serving.observed_llm import ObservedLLM
from mindspore_paged.serving.request_record import RecordRequests
from tests.serving.stepped_llm import SteppedLLM


def make_app():
    app, stepped = FastAPI(), SteppedLLM()
    llm = ObservedLLM(stepped, lambda answer: None)

    @app.post("/v1/things/{name}")
    async def answer(name: str, length: int = 3):
        request = stepped.engine.make_request(list(range(20)), SamplingParams(max_tokens=length))

        async def pieces():
            async for update in llm.generate(request):
                yield f"{update.token_ids}\n"

        return StreamingResponse(pieces())

    @app.get("/broken")
    async def fail():
        raise ZeroDivisionError

    return app, llm


@pytest.fixture
def lines(caplog):
    """The lines so far, as JSON."""
    caplog.set_level(logging.INFO, "mindspore_paged.access")
    return lambda: [json.loads(record.message) for record in caplog.records if record.name == "mindspore_paged.access"]


@pytest.fixture
def client():
    app, _ = make_app()
    return TestClient(RecordRequests(app, [write_access_line]), raise_server_exceptions=False)


def test_a_line_has_the_request_its_end_and_its_tokens(client, lines):
    for _ in range(2):
        assert client.post("/v1/things/one?key=secret", headers={"Authorization": "Bearer secret"}).status_code == 200
    first, second = lines()
    assert first.pop("time").endswith("+00:00")
    assert 0 < first.pop("duration_seconds") < 60
    assert len(first.pop("request_id")) == 32
    assert first == {
        "method": "POST",
        "path": "/v1/things/one",
        "status": 200,
        "prompt_tokens": 20,
        "cached_tokens": 0,
        "output_tokens": 3,
        "finish_reason": "length",
    }
    assert second["cached_tokens"] == 16
    assert "secret" not in json.dumps([first, second])


def test_what_ran_nothing_has_no_tokens(client, lines):
    assert client.get("/nowhere").status_code == 404
    (line,) = lines()
    assert (line["status"], line["path"]) == (404, "/nowhere")
    assert "output_tokens" not in line


def test_an_error_of_the_server_is_a_500(client, lines):
    assert client.get("/broken").status_code == 500
    assert lines()[0]["status"] == 500


def test_the_id_is_the_clients_where_it_is_sane(client, lines):
    response = client.get("/nowhere", headers={"X-Request-Id": "job-17/3"})
    assert response.headers.get_list("x-request-id") == ["job-17/3"]
    assert lines()[0]["request_id"] == "job-17/3"


@pytest.mark.parametrize("insane", ["", "a b", "x" * 129, "line\tbreak", "é".encode()])
def test_an_insane_id_is_replaced(client, lines, insane):
    given = client.get("/nowhere", headers={"X-Request-Id": insane}).headers["x-request-id"]
    assert len(given) == 32
    assert lines()[0]["request_id"] == given


def test_two_ids_are_none(client):
    headers = [("X-Request-Id", "one"), ("X-Request-Id", "two")]
    assert client.get("/nowhere", headers=headers).headers["x-request-id"] not in ("one", "two")


def test_a_path_cannot_write_lines_of_its_own(client, lines):
    client.get('/a%0a{"status": 200}' + "x" * 1000)
    (line,) = lines()
    assert line["path"].startswith('/a\n{"status": 200}')
    assert len(line["path"]) == 256


def test_a_client_that_leaves_in_the_middle_is_an_abort(lines):
    app, llm = make_app()
    sent = []

    async def leave():
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len(sent) == 3:
                gone.set()
                await asyncio.sleep(0.05)

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": "POST", "path": "/v1/things/one", "raw_path": b"/v1/things/one", "query_string": b"length=19",
            "headers": [], "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
        }  # fmt: skip
        await RecordRequests(app, [write_access_line])(scope, receive, send)

    asyncio.run(leave())
    (line,) = lines()
    assert (line["status"], line["finish_reason"]) == (200, "abort")
    assert 0 < line["output_tokens"] < 19
    assert not llm.engine.has_unfinished


def test_a_client_that_leaves_before_there_is_an_answer(lines):
    async def app(scope, receive, send):
        return None

    async def leave():
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await RecordRequests(app, [write_access_line])(scope, None, None)

    asyncio.run(leave())
    assert lines()[0]["status"] == 499


def test_lines_go_to_the_stream_as_they_are():
    stream = io.StringIO()
    handler = AccessLog(stream)
    log.info('{"a": 1}')
    log.info('{"b": 100%}')
    handler.close()
    assert stream.getvalue() == '{"a": 1}\n{"b": 100%}\n'
    log.info("afterwards")
    assert "afterwards" not in stream.getvalue()


class Stuck(io.StringIO):
    """A stream whose reader has stopped reading."""

    def __init__(self):
        super().__init__()
        self.freed = threading.Event()

    def write(self, text):
        self.freed.wait(20)
        return super().write(text)


def test_a_stream_that_nobody_reads_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(access_log, "MOST_WAITING_LINES", 5)
    monkeypatch.setattr(access_log, "FAREWELL_SECONDS", 0.1)
    stream = Stuck()
    handler = access_log.AccessLog(stream)
    started = time.monotonic()
    for number in range(100):
        log.info(str(number))
    handler.close()
    assert time.monotonic() - started < 10
    stream.freed.set()
    deadline = time.monotonic() + 10
    while stream.getvalue().count("\n") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert stream.getvalue().startswith("0\n1\n2\n3\n4\n")
