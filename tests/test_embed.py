"""LLM.embed: real small models through engine and graphs, against the float64 reference's hidden states."""

import asyncio

import numpy as np
import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import RequestError
from tests import cli_runs
from tests.reference import llama as reference

PROMPTS = [[1, 2, 3], [200] * 20, [7], list(range(40)), list(range(30, 94))]
FOUR = SamplingParams(max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return cli_runs.write_gguf(tmp_path_factory.mktemp("model") / "model.gguf")


def make_llm(weights, embeddings=True, **runtime) -> LLM:
    sections = {
        "model": {"weights": str(weights)},
        "cache": {"num_blocks": 24},
        "scheduler": {"max_num_seqs": 4, "max_num_batched_tokens": 16, "token_buckets": [16], "max_model_len": 64},
        "runtime": {"debug": True, "embeddings": embeddings} | runtime,
    }
    return LLM(config_from_dict(sections), show_progress=False)


@pytest.fixture(scope="module")
def llm(gguf):
    return make_llm(gguf)


def expected(prompt, pooling) -> np.ndarray:
    states = reference.hidden_states(cli_runs.CONFIG, cli_runs.WEIGHTS, prompt)
    pooled = states.mean(axis=0) if pooling == "mean" else states[-1]
    return pooled / np.linalg.norm(pooled)


def assert_right(llm, pooling, prompts=PROMPTS) -> None:
    outputs = llm.embed(prompts, pooling)
    assert [output.prompt_token_ids for output in outputs] == prompts
    for output, prompt in zip(outputs, prompts):
        assert output.embedding.dtype == np.float32
        np.testing.assert_allclose(output.embedding, expected(prompt, pooling), rtol=0, atol=1e-5)
    llm.engine.check_integrity()
    assert llm.get_statistics()["compiles_after_warmup"] == 0


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_the_reference_and_answers_stay_what_they_are(llm, pooling):
    before = [output.outputs[0].token_ids for output in llm.generate(PROMPTS[:3], FOUR)]
    assert_right(llm, pooling)
    assert_right(llm, pooling)  # over the pages that are there now
    assert [output.outputs[0].token_ids for output in llm.generate(PROMPTS[:3], FOUR)] == before


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_bits_are_the_same_alone_beside_answers_and_after_hits(llm, pooling):
    together = [output.embedding for output in llm.embed(PROMPTS, pooling)]
    stream = llm.stream([9, 9, 9], SamplingParams(max_tokens=30, ignore_eos=True))
    next(stream)
    for prompt, vector in zip(PROMPTS, together):
        (alone,) = llm.embed(prompt, pooling)
        assert np.array_equal(alone.embedding, vector)
    assert len(list(stream)) > 0


def test_operator_by_operator(gguf):
    plain = make_llm(gguf, fused_ops=False)
    for pooling in ("mean", "last"):
        assert_right(plain, pooling)


def test_text_and_messages_are_prompts_too(llm):
    (by_text,) = llm.embed("<s>Hi|")
    (by_chat,) = llm.embed([{"role": "user", "content": "Hi"}])
    (by_ids,) = llm.embed(by_text.prompt_token_ids)
    assert by_text.prompt_token_ids == by_chat.prompt_token_ids
    assert np.array_equal(by_text.embedding, by_chat.embedding)
    assert np.array_equal(by_text.embedding, by_ids.embedding)
    assert by_text.prompt == "<s>Hi|"
    assert llm.embed([]) == []


def test_asyncio(llm):
    together = [output.embedding for output in llm.embed(PROMPTS, "last")]

    async def embed_all():
        async_llm = AsyncLLM(llm)
        outputs = await asyncio.gather(*(async_llm.embed(prompt, "last", priority=1) for prompt in PROMPTS))
        with pytest.raises(RequestError, match="pooling is 'max'"):
            await async_llm.embed([1], "max")
        return [output.embedding for output in outputs]

    assert all(map(np.array_equal, asyncio.run(embed_all()), together))


@pytest.mark.parametrize(
    ("prompt", "pooling", "message"),
    [
        ([], "mean", "the prompt is empty"),
        ([1] * 65, "mean", "the prompt has 65 tokens; max_model_len 64 is the most"),
        ([9999], "last", "prompt token 9999 is no token of this model"),
        ([1], "max", "pooling is 'max'; it must be mean or last"),
        (5, "mean", "the prompts are 5"),
    ],
)
def test_what_cannot_be_embedded_is_refused_before_anything_runs(llm, prompt, pooling, message):
    steps = llm.get_statistics()["num_steps"]
    with pytest.raises(RequestError, match=message):
        llm.embed(prompt if prompt == 5 else [[1], prompt], pooling)
    assert llm.get_statistics()["num_steps"] == steps


def test_without_the_key_nothing_is_compiled_for_it(gguf, llm):
    plain = make_llm(gguf, embeddings=False)
    with pytest.raises(RequestError, match="this engine gives no embeddings; it does with runtime.embeddings: true"):
        plain.embed([1])
    found = [each.get_statistics()["compiled_graphs"] for each in (plain, llm)]
    assert found[1] - found[0] == 1  # one bucket
    assert plain.get_statistics()["weights_gb"] == llm.get_statistics()["weights_gb"]
