import json

import pytest

from mindspore_paged.launch.messages import MAX_LINE_BYTES, Lines, ProtocolError, encode

MESSAGES = [{"rank": 1, "size": 2}, {"error": "zwei\nZeilen, größer"}, {"step": 3, "state": "in the graph"}]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_survive_any_cutting_of_the_stream(size):
    stream = b"".join(encode(**message) for message in MESSAGES)
    lines = Lines()
    received = [
        message for start in range(0, len(stream), size) for message in lines.feed(stream[start : start + size])
    ]
    assert received == MESSAGES


def test_a_message_is_one_line_of_json():
    line = encode(error="a\nb")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"error": "a\nb"}


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n", b"[1, 2]\n", b"\n", b"\xff\xfe\n", b'{"a": \n'])
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ProtocolError):
        Lines().feed(line)


def test_a_line_without_an_end_is_refused():
    lines = Lines()
    lines.feed(b"x" * MAX_LINE_BYTES)
    with pytest.raises(ProtocolError):
        lines.feed(b"x")
