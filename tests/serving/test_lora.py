"""Adapters over HTTP: asked for as models are, listed beside them, loaded and unloaded while the server runs."""

import json
from contextlib import contextmanager

import openai
import pytest

from mindspore_paged import LLM
from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.app import create_app
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.adapter_files import write_adapter
from tests.serving.conftest import SIZES
from tests.serving.running import HI, JSON, MODEL, RunningServer
from tests.serving.test_bodies import error_of

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
TEXT = "Hello, adapted world"


@pytest.fixture(scope="module")
def folder(model_file, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "sql", open_checkpoint(model_file).model_config, 1)


@pytest.fixture(scope="module")
def llm(model_file, folder):
    overrides = [*SIZES, f'model.lora_adapters={{"sql": "{folder}"}}', "model.max_loras=2"]
    with LLM(weights=model_file, overrides=overrides, show_progress=False) as llm:
        yield llm


@contextmanager
def serving(llm, **options):
    with RunningServer(llm, llm.config.server) as server, server.beside(**options) as other:
        yield other
        other.assert_idle()


def answers_of(client, model):
    """What each kind of answer is with a model of this name."""
    completion = client.completions.create(model=model, prompt=TEXT, max_tokens=12, temperature=0)
    chat = client.chat.completions.create(model=model, messages=HI, max_tokens=12, temperature=0)
    streamed = client.chat.completions.create(model=model, messages=HI, max_tokens=12, temperature=0, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    response = client.responses.create(model=model, input="Hi", max_output_tokens=12, temperature=0)
    embedding = client.embeddings.create(model=model, input=TEXT).data[0].embedding
    assert {completion.model, chat.model, response.model} == {model}
    assert "".join(pieces) == chat.choices[0].message.content
    return completion.choices[0].text, chat.choices[0].message.content, response.output_text, tuple(embedding)


def test_a_name_of_an_adapter_is_a_model(llm):
    with serving(llm) as server:
        client = server.client
        plain, adapted = answers_of(client, MODEL), answers_of(client, "sql")
        assert all(one != other for one, other in zip(plain, adapted, strict=True))
        direct = llm.generate(TEXT, llm.config.sampling.__class__(max_tokens=12), lora_adapter="sql")
        assert adapted[0] == direct[0].outputs[0].text
        listed = {card.id: card for card in client.models.list().data}
        assert list(listed) == [MODEL, "sql"]
        assert (listed["sql"].parent, listed[MODEL].parent) == (MODEL, None)
        assert client.models.retrieve("sql").id == "sql"
        with pytest.raises(openai.NotFoundError, match=f"served: {MODEL}, sql"):
            answers_of(client, "other")


def test_anthropics_messages(llm):
    body = {"messages": HI, "max_tokens": 12, "temperature": 0}
    with serving(llm) as server:
        texts = []
        for model in (MODEL, "sql"):
            status, _, data = server.ask("POST", "/v1/messages", json.dumps(body | {"model": model}), JSON)
            assert status == 200
            texts.append(json.loads(data)["content"][0]["text"])
        assert texts[0] != texts[1]


def post(server, path, **body):
    return server.ask("POST", path, json.dumps(body), JSON)


def test_loading_and_unloading(llm, folder, tmp_path):
    with serving(llm, allow_lora_loading=True) as server:
        client = server.client
        status, _, data = post(server, LOAD, lora_name="again", lora_path=folder)
        assert (status, data.decode()) == (200, "Success: LoRA adapter 'again' added successfully.")
        assert answers_of(client, "again") == answers_of(client, "sql")
        for body, message in (
            ({"lora_name": "again", "lora_path": folder}, "lora_name 'again' is in use"),
            ({"lora_name": MODEL, "lora_path": folder}, "is the model's own name"),
            ({"lora_name": "more", "lora_path": folder}, "model.max_loras is 2"),
            ({"lora_name": "more", "lora_path": str(tmp_path)}, "adapter_config.json: no such file"),
            ({"lora_name": "", "lora_path": folder}, "lora_name"),
            ({"lora_path": folder}, "lora_name"),
        ):
            error = error_of(post(server, LOAD, **body))
            assert error["status"] == 400
            assert message in error["message"]
        status, _, data = post(server, UNLOAD, lora_name="again")
        assert (status, data.decode()) == (200, "Success: LoRA adapter 'again' removed successfully.")
        assert error_of(post(server, UNLOAD, lora_name="again"))["status"] == 404
        with pytest.raises(openai.NotFoundError):
            answers_of(client, "again")
        assert [card.id for card in client.models.list().data] == [MODEL, "sql"]


def test_nobody_loads_unless_the_operator_allows_it(llm, folder):
    with serving(llm) as server:
        for path in (LOAD, UNLOAD):
            error = error_of(post(server, path, lora_name="sql", lora_path=folder))
            assert (error["status"], error["code"]) == (403, "not_allowed")
        assert llm.engine.lora.names == ("sql",)


def test_an_adapter_with_the_models_name_is_refused_at_start(llm):
    with pytest.raises(ConfigError, match="model.lora_adapters has 'sql', which is the model's own name"):
        create_app(RunningLLM(llm), model_names=("sql",))


class RunningLLM:
    """As much of an AsyncLLM as is asked before the server starts."""

    def __init__(self, llm):
        self.config, self.lora, self.limits = llm.config, llm.engine.lora, llm.engine.limits


def test_the_configuration_says_what_it_allows():
    assert load_config(None, ["server.allow_lora_loading=true"]).server.allow_lora_loading
