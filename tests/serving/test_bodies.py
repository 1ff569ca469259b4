"""Bodies that no client should send: each gets a 4xx in OpenAI's form, and the server goes on."""

import json

import pytest

from tests.cli_runs import CHAT_TEMPLATE
from tests.serving.running import HI, JSON, MODEL, answer_on

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
START = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hi"}}], '


def error_of(answer) -> dict:
    """The error of an answer that has exactly OpenAI's form."""
    status, headers, data = answer
    assert 400 <= status < 500
    assert headers["content-type"] == "application/json"
    body = json.loads(data)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert "\n" not in body["error"]["message"]
    return {"status": status, **body["error"]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "the request has no JSON body"),
        ("{", "the body is not JSON: EOF while parsing an object"),
        ("[]", "the body must be a JSON object"),
        ("null", "the body must be a JSON object"),
        ('"text"', "the body must be a JSON object"),
        ("[" * 100_000, "the body is not JSON: recursion limit exceeded"),
        ('{"a":' * 10_000, "the body is not JSON: recursion limit exceeded"),
        (b'\xff\xfe{"model": 1}', "the body is not JSON: "),
        (b'{"model": "\xff"}', "the body is not JSON: "),
        (START + r'"user": "\ud800"}', "the body is not JSON: "),
        (START + '"temperature": NaN}', "the body is not JSON: "),
        (START + '"temperature": Infinity}', "the body is not JSON: "),
        (START + '"temperature": 1e999}', "temperature is inf; it must be a finite number"),
        (START + '"temperature": ' + "9" * 400 + "}", "temperature is a number of 1329 bits; it must be a number"),
        (START + '"max_tokens": ' + "9" * 400 + "}", "max_tokens is a number of 1329 bits; it must be a whole number"),
        (START + '"seed": ' + "9" * 10_000 + "}", "the body is not JSON: number out of range"),
    ],
)
def test_what_is_no_json_object_of_this_world(server, body, message):
    error = error_of(server.ask("POST", CHAT, body))
    assert error["status"] == 400
    assert message in error["message"]


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}])
def test_bodies_that_do_not_say_that_they_are_json(server, headers):
    body = json.dumps({"model": MODEL, "messages": HI})
    assert "Content-Type: application/json" in error_of(server.ask("POST", CHAT, body, headers))["message"]


@pytest.mark.parametrize(
    ("keys", "param", "message"),
    [
        ({"messages": []}, "messages", "messages is []; it must be a list that is not empty"),
        ({"messages": None}, "messages", "messages is None; it must be a list"),
        ({"messages": ["Hi"]}, "messages[0]", "messages[0] is 'Hi'; it must be a JSON object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing; it must be text"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "you must give messages[0].role"),
        ({"messages": [{"role": "imp", "content": ""}]}, "messages[0].role", "messages[0].role is 'imp'; it must be"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "messages[0].content[0].type is 'image_url'; it must be 'text'",
        ),
        ({"model": 5}, "model", "model is 5; it must be text"),
        ({"temperature": "0.5"}, "temperature", "temperature is '0.5'; it must be a number"),
        ({"top_p": 0}, "top_p", "top_p is 0.0; it must be above 0 and at most 1"),
        (
            {"repetition_penalty": 2.6e-101},
            "repetition_penalty",
            "repetition_penalty is 2.6e-101; it must be greater than or equal to 0.01",
        ),
        (
            {"repetition_penalty": 1e30},
            "repetition_penalty",
            "repetition_penalty is 1e+30; it must be less than or equal to 100",
        ),
        ({"n": 0}, "n", "n is 0; it must be greater than or equal to 1"),
        ({"n": 129}, "n", "n is 129; it must be less than or equal to 128"),
        ({"n": True}, "n", "n is True; it must be a whole number"),
        ({"max_tokens": 1.5}, "max_tokens", "max_tokens is 1.5; it must be a whole number"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be at least 1, or none"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "give max_completion_tokens or max_tokens"),
        ({"stop": [1]}, "stop", "stop is [1]; it must be text, or a list of texts"),
        ({"stop": [""]}, "stop", "stop is ('',); it must be strings that are not empty"),
        ({"stop_token_ids": [-1]}, None, "stop token -1 is no token of this model"),
        ({"stream": "yes"}, "stream", "stream is 'yes'; it must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options needs stream to be true"),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs needs logprobs to be true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "it must be less than or equal to 20"),
        ({"priority": 101}, "priority", "priority is 101; it must be a whole number from -100 to 100"),
        ({"cache_salt": ""}, "cache_salt", "cache_salt is ''; it must be text that is not empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias"),
        ({"tools": 5}, "tools", "tools is 5; it must be a list"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "tools[0].function is missing"),
        ({"chat_template_kwargs": {"messages": 1}}, "messages", "chat_template_kwargs holds messages"),
        ({"response_format": {"type": "yaml"}}, "response_format", "response_format.type is 'yaml'; it must be one of"),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice is given without tools"),
        ({"audio": {"voice": "alloy"}}, "audio", "audio is not supported by this server"),
        ({"mirostat": 2}, "mirostat", "mirostat is not supported by this server"),
        ({"min_tokens": 500}, "min_tokens", "min_tokens is 500; it must be from 0 to max_tokens"),
        ({"allowed_token_ids": [5000]}, None, "allowed_token_ids has token 5000, which is no token of this model"),
        ({"xtc_probability": 2}, "xtc_probability", "xtc_probability is 2.0; it must be from 0 to 1"),
        ({"bad_words": [" "]}, "bad_words", "bad_words is (' ',); it must be texts of 1 to 512 characters"),
        ({"modalities": ["audio"]}, "modalities", "modalities is not supported by this server"),
    ],
)
def test_a_chat_that_cannot_be_answered(server, keys, param, message):
    status, headers, data = server.ask("POST", CHAT, json.dumps({"model": MODEL, "messages": HI} | keys))
    error = error_of((status, headers, data))
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": 5}, "prompt is 5; it must be text, a list of token ids, or a list of one of these"),
        ({"prompt": []}, "prompt is []; it must be"),
        ({"prompt": [[]]}, "prompt is [[]]; it must be"),
        ({"prompt": [1, "a"]}, "prompt is [1, 'a']; it must be"),
        ({"prompt": [1, True]}, "prompt is [1, True]; it must be"),
        ({"prompt": ["x"] * 1025}, "1024 prompts at most"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": [10**30]}, "prompt token 1000000000000000000000000000000 is no token of this model"),
        ({"prompt": "x" * 200}, "the prompt has 200 tokens; max_model_len 128 leaves no room for an answer"),
        ({"best_of": 2}, "best_of needs use_beam_search to be true"),
        ({"suffix": "end"}, "suffix is not supported by this server"),
        ({"logprobs": True}, "logprobs is True; it must be a whole number"),
    ],
)
def test_a_prompt_that_cannot_be_gone_on_from(server, keys, message):
    assert (
        message
        in error_of(server.ask("POST", COMPLETIONS, json.dumps({"model": MODEL, "prompt": "x"} | keys)))["message"]
    )


def test_of_many_prompts_the_bad_one_is_named_and_none_runs(server):
    steps = server.call(lambda engine: engine.metrics.num_steps)
    error = error_of(server.ask("POST", COMPLETIONS, json.dumps({"model": MODEL, "prompt": ["x", "", "y"]})))
    assert error["param"] == "prompt[1]"
    assert server.call(lambda engine: engine.metrics.num_steps) == steps


def test_what_is_odd_but_allowed_is_answered(server):
    for keys in ({"prompt": "a\0b"}, {"stop": "\0"}, {"top_k": 10**300, "temperature": 1.0}, {"best_of": 1}):
        status, _ = server.post(COMPLETIONS, **{"model": MODEL, "prompt": "x", "max_tokens": 1} | keys)
        assert status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("POST", "/v1/models/../../etc/passwd", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_there_are_not(server, method, path, status, code):
    error = error_of(server.ask(method, path))
    assert (error["status"], error["code"]) == (status, code)


def test_bytes_that_are_no_http_are_told_so_in_the_same_form(server):
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00 no http\r\n\r\n")
        status, answer = answer_on(connection)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_a_header_without_end_is_refused(server):
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: " + b"x" * 200_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


class TestTokens:
    def test_there_and_back(self, server):
        status, there = server.post("/tokenize", prompt="Hi ab", return_token_strs=True)
        assert (status, there["count"], there["max_model_len"]) == (200, 4, 128)
        assert there["token_strs"] == ["H", "i", "Ġ", "ab"]
        assert server.post("/detokenize", tokens=there["tokens"]) == (200, {"prompt": "Hi ab"})
        floats = [float(token) for token in there["tokens"]]  # as JSON Schema has it, these are whole numbers
        assert server.post("/detokenize", tokens=floats) == (200, {"prompt": "Hi ab"})

    def test_a_chat_as_the_template_writes_it(self, server):
        status, answer = server.post("/tokenize", messages=HI)
        assert status == 200
        assert server.post("/detokenize", tokens=answer["tokens"])[1] == {"prompt": "<s>Hi|"}

    def test_what_is_to_be_known_of_the_tokenizer(self, server):
        status, _, data = server.ask("GET", "/tokenizer_info")
        assert status == 200
        assert json.loads(data) == {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 128,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": CHAT_TEMPLATE,
        }

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/tokenize", {}),
            ("/tokenize", {"prompt": "x", "messages": HI}),
            ("/tokenize", {"prompt": 5}),
            ("/detokenize", {}),
            ("/detokenize", {"tokens": [-1]}),
            ("/detokenize", {"tokens": [10**300]}),
            ("/detokenize", {"tokens": [1.5]}),
        ],
    )
    def test_what_cannot_be_used(self, server, path, body):
        assert error_of(server.ask("POST", path, json.dumps(body), JSON))["status"] == 400


def test_the_descriptions_name_every_path_and_no_422(server):
    status, _, data = server.ask("GET", "/openapi.json")
    assert status == 200
    schema = json.loads(data)
    assert {CHAT, COMPLETIONS, "/v1/models", "/tokenize", "/detokenize", "/health", "/ready", "/version"} <= set(
        schema["paths"]
    )
    assert "422" not in data.decode()
