"""Embeddings through HTTP are LLM.embed's, by the official client and in every form that it sends."""

import dataclasses

import numpy as np
import openai
import pytest

from tests.serving.running import MODEL

TEXTS = ["Hi", "Hello there", "a" * 100]


def vectors_of(answer) -> np.ndarray:
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return np.array([each.embedding for each in answer.data], np.float32)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_several_texts_by_the_official_client(server, pooling):
    outputs = server.llm.embed(TEXTS, pooling)
    extra = {"pooling": pooling} if pooling != "mean" else {}
    answer = server.client.embeddings.create(model=MODEL, input=TEXTS, extra_body=extra)  # it asks for base64
    assert np.array_equal(vectors_of(answer), [output.embedding for output in outputs])
    assert (answer.object, answer.model, answer.data[0].object) == ("list", MODEL, "embedding")
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (num_tokens, num_tokens)


def test_every_form_of_input_and_encoding(server):
    ids = [output.prompt_token_ids for output in server.llm.embed(TEXTS)]
    expected = vectors_of(server.client.embeddings.create(model=MODEL, input=TEXTS))
    size = expected.shape[1]
    for given, wanted in ((TEXTS[0], expected[:1]), (ids[0], expected[:1]), (ids, expected)):
        for encoding in ("float", "base64"):
            status, body = server.post("/v1/embeddings", model=MODEL, input=given, encoding_format=encoding)
            assert status == 200
            assert isinstance(body["data"][0]["embedding"], list if encoding == "float" else str)
        found = server.client.embeddings.create(model=MODEL, input=given, encoding_format="float", dimensions=size)
        assert np.array_equal(vectors_of(found), wanted)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "you must give input"),
        ({"input": []}, "input", "input is []; it must be text"),
        ({"input": [1, "a"]}, "input", "it must be text, a list of token ids, or a list of one of these"),
        ({"input": "Hi", "dimensions": 7}, "dimensions", "dimensions is 7; this model's embeddings have 32"),
        ({"input": "Hi", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "Hi", "pooling": "max"}, "pooling", "'mean' or 'last'"),
        ({"input": ["Hi", "a" * 200]}, "input[1]", "max_model_len 128 is the most"),
        ({"input": [99999]}, "input", "prompt token 99999 is no token of this model"),
    ],
)
def test_what_cannot_be_embedded(server, body, param, message):
    status, answer = server.post("/v1/embeddings", model=MODEL, **body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert message in answer["error"]["message"]


def test_a_server_without_embeddings_says_so(server, monkeypatch):
    engine = server.llm.engine
    monkeypatch.setattr(engine.request_maker, "limits", dataclasses.replace(engine.limits, embedding_size=None))
    with pytest.raises(openai.BadRequestError, match="this engine gives no embeddings") as refusal:
        server.client.embeddings.create(model=MODEL, input="Hi")
    assert refusal.value.status_code == 400
