"""Clients that go before the end, read slowly or say nothing: their pages come back, and nobody else waits."""

import json
import socket
import struct
import time

import pytest

from tests.serving.running import HI, MODEL, answer_on, request_bytes

LONG = {"model": MODEL, "prompt": "Hello", "max_tokens": 120, "ignore_eos": True}


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
            assert connection.recv(100) == b""  # within two times the fixture's 1 s, or the socket's own 10 s


def test_a_body_that_does_not_come_is_not_waited_for(server):
    with server.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", **LONG)[:-10])
        status, answer = answer_on(connection)
    assert (status, answer["error"]["code"]) == (408, "request_timeout")


def test_a_reader_that_takes_nothing_is_cut_off_and_nobody_waits_for_it(slow):
    many = {"model": MODEL, "prompt": "Hi", "n": 8, "max_tokens": 120, "logprobs": 20, "ignore_eos": True}
    with slow.beside(max_buffered_updates=16) as bounded, bounded.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request_bytes("/v1/completions", **many, stream=True))
        bounded.wait_until(lambda: bounded.engine.num_unfinished == 1)
        slow.call(lambda engine: None)  # between two steps, while that one runs
        used = None
        while used != 0:  # its pages come back long before its connection ends
            used = slow.call(lambda engine: engine.scheduler.cache.pool.num_used)
        assert bounded.num_connections == 1
        answer = slow.client.completions.create(model=MODEL, prompt="Hi", max_tokens=3)
        assert answer.usage.completion_tokens == 3
        bounded.wait_until(lambda: bounded.num_connections == 0, seconds=10)  # the fixture's 1 s, by the kernel's clock
        assert bounded.service.num_under_way == 0


def test_a_reader_that_falls_behind_hears_why_it_was_cut_off(slow):
    many = {"model": MODEL, "prompt": "Hi", "n": 8, "max_tokens": 120, "logprobs": 20, "ignore_eos": True}
    with slow.beside(max_buffered_updates=16, connection_timeout=30.0) as bounded, bounded.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request_bytes("/v1/completions", **many, stream=True))
        bounded.wait_until(lambda: bounded.engine.num_unfinished == 1)
        while slow.call(lambda engine: engine.scheduler.cache.pool.num_used):
            time.sleep(0.01)
        data = b""
        while b"[DONE]" not in data:
            data += connection.recv(1 << 16)
    events = [line for line in data.decode().splitlines() if line.startswith("data: ")]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "slow_reader"
