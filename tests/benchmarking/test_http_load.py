"""What a client of a server measures, against a server whose delays are known."""

import numpy as np
import pytest

from mindspore_paged.benchmarking.conversations import Conversation, Turn, draw_conversations
from mindspore_paged.benchmarking.goodput import parse_limits
from mindspore_paged.benchmarking.http_load import COMPLETIONS, Server, served_figures
from mindspore_paged.benchmarking.lengths import parse_lengths
from mindspore_paged.benchmarking.serving import draw_arrivals, summary
from mindspore_paged.errors import ConfigError
from tests.stub_server import StubServer

FIRST, BETWEEN = 0.08, 0.02


def conversations(count, num_output=4, at=0.0, text="some words", turns=1, system=None):
    turn = Turn(text, num_output)
    return [Conversation(at * place, system, (turn,) * turns) for place in range(count)]


def one(text):
    return conversations(1, text=text)


def test_delays_are_measured_as_they_are():
    with StubServer(FIRST, BETWEEN) as stub:
        run = Server(stub.url, "stub").measure(conversations(6, num_output=6), 3)
    figures = summary(run.records, run.load, parse_limits(["ttft:1000", "tpot:1000"], "--goodput"))
    assert (figures["num_requests"], figures["num_failed"], figures["most_running"], stub.most_at_once) == (6, 0, 3, 3)
    assert [len(record.token_times) for record in run.records] == [6] * 6
    for record in run.records:
        assert FIRST <= record.ttft < 3 * FIRST
        assert BETWEEN <= record.tpot < 3 * BETWEEN
        assert record.latency == pytest.approx(record.ttft + 5 * record.tpot)
        assert (record.num_prompt, record.num_output, record.num_cached) == (2, 6, 3)
    # Two rounds of three, each of one first and five later tokens.
    assert 2 * (FIRST + 5 * BETWEEN) <= figures["seconds"] < 6 * (FIRST + 5 * BETWEEN)
    assert figures["output_tokens_per_second"] == pytest.approx(36 / figures["seconds"])
    assert figures["goodput_per_second"] == figures["requests_per_second"]
    assert 0 < served_figures(run)["client_cpu_share"] < 1
    assert figures["queued_ms_p50"] is None, "nobody outside a server knows"


def test_requests_come_at_their_times():
    with StubServer(FIRST) as stub:
        run = Server(stub.url, "stub").measure(conversations(4, num_output=1, at=0.03))
    assert [record.arrival for record in run.records] == pytest.approx([0, 0.03, 0.06, 0.09])
    assert all(record.ttft >= FIRST and record.tpot is None for record in run.records)
    assert stub.most_at_once > 1


def test_turns_bring_all_that_was_said():
    with StubServer(FIRST) as stub:
        run = Server(stub.url, "stub").measure(conversations(1, 2, turns=3, system="be short"), 1)
    roles = [[message["role"] for message in request["messages"]] for request in stub.requests]
    assert roles == [["system", "user", *["assistant", "user"] * turn] for turn in range(3)]
    assert stub.requests[2]["messages"][2]["content"] == " a a"
    figures = served_figures(run)
    assert [record.turn for record in run.records] == [0, 1, 2]
    assert len(figures["ttft_ms_p50_by_turn"]) == 3
    assert all(1e3 * FIRST <= value < 3e3 * FIRST for value in figures["ttft_ms_p50_by_turn"])


def test_what_is_sent():
    with StubServer() as stub:
        server = Server(stub.url, "", COMPLETIONS, api_key="secret").find_model()
        run = server.measure(conversations(1, 5, system="before"), 1)
    assert stub.requests == [
        {
            "model": "stub",
            "prompt": "before\nsome words",
            "max_tokens": 5,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert stub.headers[0]["Authorization"] == "Bearer secret"
    assert run.records[0].num_output == 5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refuse", "429: the queue is full"),
        ("fail", "200: the engine failed"),
        ("break", "payload"),
        ("no end", "data: [DONE]"),
        ("no usage", "its answer has no usage"),
    ],
)
def test_a_request_that_fails_is_counted_apart(fault, error):
    with StubServer(does={"bad": fault}) as stub:
        run = Server(stub.url, "stub").measure([*one("bad words"), *one("good words")], 1)
    bad, good = run.records
    assert error in bad.error
    assert good.error is None
    figures = summary(run.records, run.load)
    assert (figures["num_requests"], figures["num_failed"]) == (2, 1)


def test_answers_that_are_too_short_are_counted():
    with StubServer(short=1) as stub:
        run = Server(stub.url, "stub").measure(conversations(3), 1)
    assert served_figures(run)["num_short"] == 3


def test_nobody_answers():
    with StubServer() as stub:
        url = stub.url
    with pytest.raises(ConfigError, match=f"--base-url {url}: nobody answers there"):
        Server(url, "").find_model()
    run = Server(url, "stub").measure(conversations(2), 1)
    assert all(record.error for record in run.records)


def test_the_same_arrivals_as_in_process():
    lengths = parse_lengths("uniform:2:9", "p"), parse_lengths("lognormal:5:0.5:20", "o")
    inside = draw_arrivals(2.0, 20, *lengths, 50, 64, 7)
    outside = draw_conversations(2.0, 20, *lengths, 7)
    assert [(a.at, len(a.prompt), a.num_output) for a in inside] == [
        (c.at, len(c.turns[0].text.split()), c.turns[0].num_output) for c in outside
    ]


def test_texts_differ_by_run_and_share_what_they_should():
    lengths = parse_lengths("8", "p"), parse_lengths("4", "o")
    drawn = [draw_conversations(np.inf, 3, *lengths, 7, run, num_turns=2, shared_prefix_len=30) for run in (0, 1)]
    assert {conversation.at for conversation in drawn[0]} == {0.0}
    assert [len({conversation.system for conversation in run}) for run in drawn] == [1, 1]
    assert len(drawn[0][0].system.split()) == 30
    assert drawn[0][0].system != drawn[1][0].system
    texts = [turn.text for run in drawn for conversation in run for turn in conversation.turns]
    assert len(set(texts)) == len(texts) == 12
