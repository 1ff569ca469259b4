"""Metrics, access log, request ids, the page and the pool's events of a whole server, over HTTP."""

import asyncio
import json
import logging
import time
from contextlib import closing

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.serving.app import create_app
from mindspore_paged.serving.auth import read_api_keys
from mindspore_paged.serving.page import PATHS
from tests.serving.running import HI, MODEL


def metrics_of(server):
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    found = [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
    assert all(labels["model_name"] == MODEL for name, labels, _ in found if name.startswith("vllm:"))
    return {(name, labels.get("finished_reason")): value for name, labels, value in found}


@pytest.fixture
def line(caplog):
    """The one line, which comes a moment after the answer."""
    caplog.set_level(logging.INFO, "mindspore_paged.access")

    def the_line():
        deadline = time.monotonic() + 10
        while not (found := [record.message for record in caplog.records if record.name == "mindspore_paged.access"]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (text,) = found
        return json.loads(text)

    return the_line


def test_what_clients_ask_for_is_counted(slow):
    before = metrics_of(slow)
    answer = slow.client.chat.completions.create(model=MODEL, messages=HI, max_tokens=7, n=2, seed=1, temperature=1)
    with closing(slow.client.completions.create(model=MODEL, prompt="aa", max_tokens=100, stream=True)) as stream:
        next(iter(stream))
    slow.assert_idle()
    after = metrics_of(slow)

    def grown(name, reason=None):
        return after[f"vllm:{name}", reason] - before[f"vllm:{name}", reason]

    assert grown("request_generation_tokens_sum") >= answer.usage.completion_tokens + 1
    assert grown("prompt_tokens_total") == answer.usage.prompt_tokens + 2
    assert grown("request_success_total", "abort") == 1
    assert grown("request_success_total", "length") + grown("request_success_total", "stop") == 2
    assert grown("time_to_first_token_seconds_count") == 2
    assert after["vllm:num_requests_running", None] == after["vllm:kv_cache_usage_perc", None] == 0


def test_embeddings_are_prompts_that_end(server):
    before = metrics_of(server)
    answer = server.client.embeddings.create(model=MODEL, input=["aa", "bcd"])
    server.assert_idle()
    after = metrics_of(server)
    for name, reason, count in (
        ("prompt_tokens_total", None, answer.usage.prompt_tokens),
        ("request_success_total", "stop", 2),
        ("request_prompt_tokens_count", None, 2),
        ("request_generation_tokens_count", None, 0),
        ("time_to_first_token_seconds_count", None, 0),
    ):
        assert after[f"vllm:{name}", reason] - before[f"vllm:{name}", reason] == count, name


def test_an_answer_has_its_id_and_its_line(server, line):
    answer = server.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HI, max_tokens=3, extra_headers={"X-Request-Id": "mine"}
    )
    assert answer.parse()._request_id == "mine"
    found = line()
    usage = answer.parse().usage
    assert (found["request_id"], found["status"], found["path"]) == ("mine", 200, "/v1/chat/completions")
    assert (found["prompt_tokens"], found["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert "Hi" not in json.dumps(found)


def test_a_failure_of_the_servers_own_has_an_id_and_a_line_too(server, line, monkeypatch):
    monkeypatch.setattr(server.service, "checked_model", lambda name: 1 / 0)
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": MODEL, "prompt": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert (line()["status"], line()["request_id"]) == (500, answer.headers["x-request-id"])


def pictures_of(response):
    """The events so far and to come; the connection is closed with this generator."""
    return (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: "))


def test_the_pool_is_watched_while_a_request_runs(server):
    mine = {"X-Request-Id": "mine"}
    with httpx.stream("GET", f"{server.url}/pool/events") as response:
        pictures = pictures_of(response)
        (before,) = next(pictures)
        assert (before["num_blocks"], before["requests"]) == (65, [])
        with closing(
            server.client.completions.create(
                model=MODEL, prompt="aa", max_tokens=120, stream=True, logit_bias={"1": -100}, extra_headers=mine
            )
        ) as stream:
            next(iter(stream))
            seen = next(pictures)
    (picture,) = seen
    if picture["requests"]:  # else it has ended already
        (request,) = picture["requests"]
        assert (request["http_request_id"], request["num_prompt_tokens"]) == ("mine", 2)
    assert picture["counts"]["num_output_tokens"] > before["counts"]["num_output_tokens"]


def test_watchers_are_bounded_and_leave_nothing_behind(server, monkeypatch):
    monkeypatch.setattr("mindspore_paged.serving.pool_events.MOST_WATCHERS", 1)
    with httpx.stream("GET", f"{server.url}/pool/events") as response:
        pictures = pictures_of(response)
        next(pictures)
        refused = httpx.get(f"{server.url}/pool/events")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_watchers")
    for _ in range(100):  # until the server has seen that the first one left
        with httpx.stream("GET", f"{server.url}/pool/events") as response:
            if response.status_code == 200:
                return
    raise AssertionError("the watcher that left is still counted")


def test_a_key_is_needed_for_the_pool_and_none_for_the_page(shared_server, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    client = TestClient(create_app(AsyncLLM(shared_server.llm), api_keys=read_api_keys(keys)))
    assert {client.get(path).status_code for path in PATHS} == {200}
    refused = client.get("/pool/events")
    assert refused.status_code == 401
    assert len(refused.headers["x-request-id"]) == 32


def test_a_watcher_does_not_hold_up_the_end(shared_server):
    engine = AsyncLLM(shared_server.llm)
    app, sent = create_app(engine), []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/pool/events",
        "raw_path": b"/pool/events", "query_string": b"", "headers": [], "scheme": "http", "root_path": "",
    }  # fmt: skip

    async def run():
        never = asyncio.Event()
        some = asyncio.Event()

        async def send(message):
            sent.append(message)
            some.set()

        watching = asyncio.create_task(app(scope, never.wait, send))
        await asyncio.wait_for(some.wait(), 10)
        assert await engine.drain(1.0)
        await asyncio.wait_for(watching, 10)

    asyncio.run(run())
    assert sent[0]["status"] == 200
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
