"""Keys, sizes, queues and times: who is let in, how much of it, and what clients are told when it is not."""

import dataclasses
import json
import threading

import openai
import pytest

from mindspore_paged.config import ServerSection
from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.auth import read_api_keys
from tests.serving.running import HI, MODEL, answer_on, request_bytes

LONG = {"model": MODEL, "prompt": "Hello", "max_tokens": 120, "ignore_eos": True}


@pytest.fixture
def options(server):
    """Changes of the server's options, taken back after the test."""
    before = server.service.options

    def change(**keys):
        server.service.options = dataclasses.replace(before, **keys)

    yield change
    server.service.options = before


def error_of(answer):
    status, headers, data = answer
    return status, headers, json.loads(data)["error"]


class TestSizes:
    @pytest.mark.parametrize("stated", [True, False])
    def test_a_body_that_is_too_large_is_not_read(self, server, stated):
        body = b'{"model": "' + b"x" * 200_000 + b'"}'
        with server.connect() as connection:
            if stated:
                connection.sendall(request_bytes("/v1/completions", prompt="x" * 200_000)[:300])
            else:
                connection.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % len(body) + body + b"\r\n"
                )
            status, answer = answer_on(connection)
        assert status == 413
        assert answer["error"] == {
            "message": "the body is larger than 100000 bytes",
            "type": "invalid_request_error",
            "param": None,
            "code": "request_too_large",
        }


class TestQueue:
    def test_when_the_queue_is_full_further_requests_are_told_to_try_again(self, slow, options):
        options(max_queued_requests=2)
        connections = [slow.connect() for _ in range(10)]
        for connection in connections:
            connection.sendall(request_bytes("/v1/completions", **LONG))
        slow.wait_until(lambda: slow.service.num_waiting == 2)  # 8 run
        status, headers, error = error_of(slow.ask("POST", "/v1/completions", json.dumps(LONG)))
        assert (status, headers["retry-after"]) == (429, "1")
        assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
        with pytest.raises(openai.RateLimitError):
            slow.client.chat.completions.create(model=MODEL, messages=HI)
        threading.Timer(0.5, lambda: [connection.close() for connection in connections]).start()
        retrying = slow.client.with_options(max_retries=2)
        assert retrying.chat.completions.create(model=MODEL, messages=HI, max_tokens=2).usage.completion_tokens == 2

    def test_who_waits_too_long_for_a_turn_is_told_so(self, slow, options):
        options(queue_timeout=0.3)
        connections = [slow.connect() for _ in range(8)]
        for connection in connections:
            connection.sendall(request_bytes("/v1/completions", **LONG))
        slow.wait_until(lambda: slow.engine.num_unfinished == 8 and slow.service.num_waiting == 0)
        status, headers, error = error_of(slow.ask("POST", "/v1/completions", json.dumps(LONG | {"stream": True})))
        assert (status, headers["retry-after"], error["code"]) == (503, "1", "queue_timeout")
        assert slow.engine.num_unfinished == 8  # those that run are not affected
        for connection in connections:
            connection.close()


class TestTime:
    def test_a_request_that_takes_too_long_ends_with_an_error(self, slow, options):
        options(request_timeout=0.3)
        status, headers, error = error_of(slow.ask("POST", "/v1/completions", json.dumps(LONG)))
        assert (status, headers["x-should-retry"], error["code"]) == (504, "false", "request_timeout")

    def test_in_a_stream_the_error_is_an_event_before_the_last(self, slow, options):
        options(request_timeout=0.3)
        status, _, data = slow.ask("POST", "/v1/completions", json.dumps(LONG | {"stream": True}))
        assert status == 200
        events = data.decode().strip().split("\n\n")
        assert len(events) > 3
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "request_timeout"
        assert events[-1] == "data: [DONE]"
        with pytest.raises(openai.APIError, match="the request took too long"):
            list(slow.client.completions.create(model=MODEL, prompt="x", max_tokens=120, stream=True))


class TestFailures:
    def test_a_request_that_fails_leaves_its_neighbours_alone(self, server, monkeypatch):
        from mindspore_paged.errors import StepError

        run = server.llm.engine.runner.run

        def fail_on_99(inputs):
            if 99 in inputs.input_ids:
                raise StepError("token 99 is poison")
            return run(inputs)

        monkeypatch.setattr(server.llm.engine.runner, "run", fail_on_99)
        good = server.client.completions.create(model=MODEL, prompt=[5, 6], max_tokens=20, stream=True)
        first = next(good)
        for stream in (False, True):
            body = {"model": MODEL, "prompt": [99], "max_tokens": 4, "stream": stream}
            status, _, error = error_of(server.ask("POST", "/v1/completions", json.dumps(body)))
            assert (status, error["type"], error["code"]) == (500, "server_error", "request_failed")
            assert error["message"] == "the request failed: token 99 is poison"
        text = first.choices[0].text + "".join(chunk.choices[0].text for chunk in good)
        monkeypatch.undo()
        alone = server.client.completions.create(model=MODEL, prompt=[5, 6], max_tokens=20)
        assert text == alone.choices[0].text


class TestDraining:
    def test_while_it_drains_the_server_lives_but_takes_nothing(self, server):
        server.engine._draining = True
        try:
            assert server.ask("GET", "/health")[0] == 200
            for method, path, body in (("GET", "/ready", None), ("POST", "/v1/completions", json.dumps(LONG))):
                status, headers, error = error_of(server.ask(method, path, body))
                assert (status, headers["retry-after"], error["code"]) == (503, "1", "draining")
        finally:
            server.engine._draining = False
        assert server.ask("GET", "/ready")[0] == 200


@pytest.fixture(scope="module")
def guarded(shared_server, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("one-key\nanother\n")
    with shared_server.beside(read_api_keys(path), api_key_file=path, cache_salt_from_key=True) as server:
        yield server


class TestKeys:
    def test_each_key_is_taken_in_both_headers(self, guarded):
        for key in ("one-key", "another"):
            assert guarded.client_with(key).models.list().data[0].id == MODEL
            assert guarded.ask("GET", "/v1/models", headers={"x-api-key": key})[0] == 200

    @pytest.mark.parametrize("key", ["", "none", "one-ke", "one-keyy", "One-key", "one-key another", "\xff"])
    def test_anything_else_is_told_so(self, guarded, key):
        for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}, {"Authorization": key}):
            for path in ("/v1/models", "/tokenize", "/openapi.json", "/v1/nothing"):
                status, headers, error = error_of(guarded.ask("GET", path, headers=headers))
                assert (status, headers["www-authenticate"], error["code"]) == (401, "Bearer", "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            guarded.client.chat.completions.create(model=MODEL, messages=HI)

    def test_what_tells_nothing_of_anyone_needs_none(self, guarded):
        assert [guarded.ask("GET", path)[0] for path in ("/health", "/ready", "/version")] == [200, 200, 200]

    def test_prompts_of_one_key_do_not_find_the_pages_of_another(self, guarded):
        def cached(key, **more):
            answer = guarded.client_with(key).completions.create(
                model=MODEL, prompt=[*range(100, 148)], max_tokens=1, extra_body=more
            )
            return answer.usage.prompt_tokens_details.cached_tokens

        assert [cached("one-key"), cached("one-key"), cached("another"), cached("another")] == [0, 32, 0, 32]
        assert [cached("one-key", cache_salt="x"), cached("one-key", cache_salt="x")] == [0, 32]


class TestCrossOrigin:
    def test_no_site_may_ask_unless_it_is_allowed(self, shared_server):
        asks = {"Origin": "https://chat.example.org", "Access-Control-Request-Method": "POST"}
        status, headers, _ = shared_server.ask("OPTIONS", "/v1/chat/completions", headers=asks)
        assert status == 405
        assert "access-control-allow-origin" not in headers
        with shared_server.beside(allowed_origins=("https://chat.example.org",)) as open_server:
            status, headers, _ = open_server.ask("OPTIONS", "/v1/chat/completions", headers=asks)
            assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example.org")
            status, headers, _ = open_server.ask(
                "OPTIONS", "/v1/chat/completions", headers=asks | {"Origin": "https://evil.example.org"}
            )
            assert "access-control-allow-origin" not in headers


class TestKeyFile:
    def test_one_key_a_line(self, tmp_path):
        path = tmp_path / "keys"
        path.write_text("one-key\n\n  another  \r\n")
        assert len(set(read_api_keys(path))) == 2
        assert read_api_keys(None) == ()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "no key in it"),
            (b"\n \n", "no key in it"),
            (b"a key\n", "line 1 is no key"),
            (b"sesame\ns\xc3\xa9same\n", "line 2 is no key"),
            (None, "cannot read the keys: No such file or directory"),
        ],
    )
    def test_files_that_hold_none(self, tmp_path, content, message):
        path = tmp_path / "keys"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            read_api_keys(path)
        assert "same" not in str(caught.value)


def test_sections_that_contradict_themselves():
    with pytest.raises(ValueError, match="given where server.tls_certificate is"):
        ServerSection(tls_key="key.pem")
    with pytest.raises(ValueError, match="there are no keys to tell clients by"):
        ServerSection(cache_salt_from_key=True)
