"""Beam searches over HTTP: what the official client gets is what the engine's own search finds."""

import json

import openai
import pytest

from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from tests.serving.running import HI, JSON, MODEL

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BEAMS = {"use_beam_search": True, "return_token_ids": True}


def found(server, prompt, **keys):
    """The engine's own answers, before the server is asked."""
    output = server.llm.beam_search(prompt, BeamSearchParams(**{"max_tokens": 12} | keys))[0]
    return [(beam.token_ids, beam.text, beam.finish_reason) for beam in output.outputs]


def told(choices):
    return [(choice.token_ids, choice.text, choice.finish_reason) for choice in choices]


def test_n_beams_are_told_best_first(server):
    expected = found(server, "Once", beam_width=4)
    completion = server.client.completions.create(
        model=MODEL, prompt=["Once", "Twice"], n=4, max_tokens=12, extra_body=BEAMS
    )
    assert [choice.index for choice in completion.choices] == list(range(8))
    assert told(completion.choices[:4]) == expected
    assert told(completion.choices[4:]) == found(server, "Twice", beam_width=4)
    assert len({tuple(choice.token_ids) for choice in completion.choices[:4]}) == 4


def test_best_of_is_the_width_of_which_n_are_told(server):
    expected = found(server, "Once", beam_width=4, length_penalty=0.0, ignore_eos=True, early_stopping="never")
    keys = {"length_penalty": 0.0, "ignore_eos": True, "early_stopping": "never"}
    completion = server.client.completions.create(
        model=MODEL, prompt="Once", n=2, best_of=4, max_tokens=12, temperature=0, extra_body=BEAMS | keys
    )
    assert told(completion.choices) == expected[:2]
    assert completion.usage.completion_tokens <= 24


def test_a_chat_is_searched_for_too(server):
    expected = found(server, {"messages": HI}, beam_width=3)
    chat = server.client.chat.completions.create(
        model=MODEL, messages=HI, n=3, max_completion_tokens=12, extra_body=BEAMS
    )
    assert [(choice.token_ids, choice.message.content, choice.finish_reason) for choice in chat.choices] == expected


@pytest.mark.parametrize(
    ("keys", "param", "message"),
    [
        ({"stream": True}, "stream", "it cannot be streamed"),
        ({"n": 3, "best_of": 2}, "best_of", "best_of is 2; it must be at least n (3)"),
        ({"n": 9}, "beam_width", "beam_width is 9; it must be at most scheduler.max_num_seqs (8)"),
        ({"temperature": 0.7}, "temperature", "temperature is 0.7; it must be 0 or 1"),
        ({"top_p": 0.9}, "top_p", "a beam search takes no top_p"),
        ({"stop": "x"}, "stop", "a beam search takes no stop"),
        ({"logprobs": 1}, "logprobs", "a beam search takes no logprobs"),
        ({"guided_regex": "a+"}, "structured_outputs", "a beam search takes no structured_outputs"),
        ({"length_penalty": 99}, "length_penalty", "it must be a number from -16 to 16"),
        ({"early_stopping": "soon"}, None, "early_stopping"),
        ({"use_beam_search": False, "best_of": 2}, "best_of", "best_of needs use_beam_search to be true"),
        ({"use_beam_search": None, "length_penalty": 2.0}, "length_penalty", "needs use_beam_search to be true"),
        ({"use_beam_search": 1}, "use_beam_search", "use_beam_search is 1; it must be true or false"),
    ],
)
def test_what_a_search_cannot_do_is_a_400(server, keys, param, message):
    body = {"model": MODEL, "prompt": "Once"} | BEAMS | keys
    status, _, data = server.ask("POST", COMPLETIONS, json.dumps(body), JSON)
    error = json.loads(data)["error"]
    assert status == 400
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param


def test_tools_are_refused_beside_it(server):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(openai.BadRequestError, match="tools cannot be called by a beam search"):
        server.client.chat.completions.create(model=MODEL, messages=HI, tools=[tool], extra_body=BEAMS)
    chat = server.client.chat.completions.create(
        model=MODEL, messages=HI, tools=[tool], tool_choice="none", max_completion_tokens=2, n=2, extra_body=BEAMS
    )
    assert len(chat.choices) == 2


def test_what_asks_for_nothing_is_no_search(server):
    keys = {"use_beam_search": False, "length_penalty": 1.0, "early_stopping": False}
    asked = {"model": MODEL, "prompt": "Once", "max_tokens": 4, "best_of": 1}
    assert server.client.completions.create(**asked, extra_body=keys).choices[0].text
