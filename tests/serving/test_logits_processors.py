"""Which functions clients may name, and what they hear of the others."""

import sys

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import ConfigError
from tests.serving.running import HI, MODEL

ALLOWED = r"tests\.sampling\.processors\.(only_even|fails_at_third)"
EVEN = "tests.sampling.processors:only_even"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def allowing(shared_server):
    with shared_server.beside(logits_processor_pattern=ALLOWED) as server:
        yield server
        server.assert_idle()


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": HI}), (COMPLETIONS, {"prompt": "Hi"})])
def test_by_default_none_is_taken_nor_imported(server, path, body):
    sys.modules.pop("this", None)
    for name in (EVEN, "this:f"):
        status, answer = server.post(path, model=MODEL, logits_processors=[name], **body)
        assert status == 400
        assert answer["error"]["param"] == "logits_processors"
        assert "none is allowed here (server.logits_processor_pattern)" in answer["error"]["message"]
    assert "this" not in sys.modules
    assert server.post(path, model=MODEL, max_tokens=1, logits_processors=[], **body)[0] == 200


def test_those_that_the_pattern_names_are_taken(allowing):
    params = SamplingParams(max_tokens=8, logits_processors=[EVEN])
    expected = allowing.llm.chat(HI, params).outputs[0].token_ids
    body = {"model": MODEL, "messages": HI, "max_tokens": 8, "return_token_ids": True}
    status, answer = allowing.post(CHAT, logits_processors=[EVEN], **body)
    assert (status, answer["choices"][0]["token_ids"]) == (200, expected)
    assert all(token % 2 == 0 for token in expected)


def test_others_are_not(allowing):
    for name in ("tests.sampling.processors:another_than_before", "os:system", "tests.sampling.processors:only_even.x"):
        status, answer = allowing.post(COMPLETIONS, model=MODEL, prompt="Hi", logits_processors=[EVEN, name])
        assert status == 400
        assert "it is none of those that are allowed here" in answer["error"]["message"]


def test_one_that_fails_ends_its_own_request(allowing):
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 8}
    status, answer = allowing.post(
        COMPLETIONS, logits_processors=["tests.sampling.processors:fails_at_third"], ignore_eos=True, **body
    )
    assert status == 500
    assert "tests.sampling.processors.fails_at_third failed: ValueError: no more" in answer["error"]["message"]
    assert allowing.post(COMPLETIONS, **body)[0] == 200


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"server.logits_processor_pattern is '\('; it must be a regular expression"):
        config_from_dict({"server": {"logits_processor_pattern": "("}})
