"""Clients that go before the end, read slowly or say nothing: their pages come back, and nobody else waits."""

import json
import socket
import struct
import time

import pytest

from tests.serving.running import HI, MODEL, request_bytes

LONG = {"model": MODEL, "prompt": "Hello", "max_tokens": 120, "ignore_eos": True}


@pytest.fixture
def slow(server, monkeypatch):
    """Steps of 20 ms, so that an answer of 120 tokens takes 2.4 s."""
    runner = server.llm.engine.runner
    run = runner.run

    def run_slowly(inputs):
        time.sleep(0.02)
        return run(inputs)

    monkeypatch.setattr(runner, "run", run_slowly)
    return server


def num_steps(server) -> int:
    return server.call(lambda engine: engine.metrics.num_steps)


def begun(server, count=1):
    server.wait_until(lambda: server.engine.num_unfinished == count)
    steps = num_steps(server)
    while num_steps(server) < steps + 2:
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_ends_its_request_within_some_steps(slow, stream, reset):
    with slow.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", **LONG, stream=stream))
        begun(slow)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        steps = num_steps(slow)
    slow.wait_until(lambda: slow.engine.num_unfinished == 0, seconds=1.0)
    assert num_steps(slow) <= steps + 10
    slow.assert_idle()


def test_a_client_that_goes_while_it_waits_in_the_queue(slow):
    running = [slow.connect() for _ in range(8)]
    for connection in running:
        connection.sendall(request_bytes("/v1/completions", **LONG))
    begun(slow, 8)
    with slow.connect() as waiting:
        waiting.sendall(request_bytes("/v1/completions", **LONG))
        slow.wait_until(lambda: slow.engine.num_unfinished == 9)
    slow.wait_until(lambda: slow.engine.num_unfinished == 8, seconds=1.0)
    for connection in running:
        connection.close()
    slow.wait_until(lambda: slow.engine.num_unfinished == 0, seconds=1.0)


def test_the_client_closes_a_stream_in_the_middle(slow):
    stream = slow.client.chat.completions.create(
        model=MODEL, messages=HI, max_tokens=100, stream=True, extra_body={"ignore_eos": True}
    )
    for _, _chunk in zip(range(4), stream):
        pass
    stream.close()
    slow.wait_until(lambda: slow.engine.num_unfinished == 0, seconds=1.0)


def test_all_prompts_of_a_body_end_with_its_client(slow):
    with slow.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", **LONG | {"prompt": ["a", "b", "c"]}, n=2, stream=True))
        begun(slow, 3)
    slow.wait_until(lambda: slow.engine.num_unfinished == 0, seconds=1.0)


def test_a_request_whose_neighbours_go_is_answered_as_if_alone(slow):
    short = {"model": MODEL, "prompt": "Hi", "max_tokens": 30, "extra_body": {"ignore_eos": True}}
    alone = slow.client.completions.create(**short).choices[0].text
    neighbours = [slow.connect() for _ in range(5)]
    for connection in neighbours:
        connection.sendall(request_bytes("/v1/completions", **LONG, stream=True))
    begun(slow, 5)
    chunks = slow.client.completions.create(**short, stream=True)
    text = next(chunks).choices[0].text
    for connection in neighbours:
        connection.close()
    assert text + "".join(chunk.choices[0].text for chunk in chunks) == alone


def test_a_connection_on_which_nothing_comes_is_let_go(server):
    for beginning in (b"", b"GET /health HTTP/1.1\r\nHost:"):
        with server.connect() as connection:
            connection.sendall(beginning)
            assert connection.recv(100) == b""  # within two times the fixture's 2 s, or the socket's own 10 s


def test_a_body_that_does_not_come_is_not_waited_for(server):
    with server.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", **LONG)[:-10])
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
