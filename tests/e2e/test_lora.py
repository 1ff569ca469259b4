"""Adapters in whole runs: many at once, in short pools, loaded and unloaded on the way, in several replicas."""

import asyncio

import numpy as np
import pytest

from mindspore_paged import AsyncLLM, BeamSearchParams, SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.exporting import export_model
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.model_config import ModelConfig
from tests.adapter_files import write_adapter
from tests.e2e.models import make_llm

DESCRIBED = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
CONFIG = ModelConfig(**DESCRIBED)
MODEL = {"config": DESCRIBED, "name": None}
SCHEDULER = {"max_num_seqs": 6, "max_num_batched_tokens": 32, "token_buckets": [6, 32], "max_model_len": 128}
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)
SHARED = list(range(3, 40))
PROMPTS = [[*SHARED, number] for number in range(4)] + [[9, 9, 9], list(range(90, 140))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of adapters by name."""
    root = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(root / name, CONFIG, rank, rank) for name, rank in (("a", 4), ("b", 3))}


def make(folders, cache=None, **sections):
    model = MODEL | {"lora_adapters": folders} | sections.pop("model", {})
    return make_llm(model=model, scheduler=SCHEDULER, cache=cache or {"num_blocks": 64, "block_size": 16}, **sections)


def ask(llm, names, params=PARAMS):
    answers = llm.generate(PROMPTS, params, lora_adapter=names)
    llm.engine.check_integrity()
    return [[completion.token_ids for completion in answer.outputs] for answer in answers]


@pytest.fixture(scope="module")
def llm(folders):
    with make(folders, model={"max_loras": 3}) as llm:
        yield llm


@pytest.fixture(scope="module")
def alone(llm):
    """What each of PROMPTS gets from the model, from `a` and from `b`, one after the other."""
    found = {}
    for name in (None, "a", "b"):
        found[name] = [llm.generate([prompt], PARAMS, lora_adapter=name)[0].outputs[0].token_ids for prompt in PROMPTS]
    return found


def test_adapters_answer_differently(alone):
    for place in range(len(PROMPTS)):
        assert len({tuple(answers[place]) for answers in alone.values()}) == 3


@pytest.mark.parametrize("names", [["a", "b", None, "a", "b", None], [None, None, "b", "b", "a", "a"]])
def test_a_batch_of_several(llm, alone, names):
    """With common beginnings, whose pages are found by requests with the same adapter alone."""
    assert ask(llm, names) == [[alone[name][place]] for place, name in enumerate(names)]


def test_several_answers_each(llm, alone):
    params = SamplingParams(max_tokens=24, ignore_eos=True, n=2)
    assert ask(llm, "a", params) == [[answer] * 2 for answer in alone["a"]]


@pytest.mark.parametrize(
    ("cache", "sections"),
    [
        ({"num_blocks": 10, "block_size": 16}, {}),  # preempts
        ({"num_blocks": 64, "block_size": 16, "enable_prefix_caching": False}, {}),
        ({"num_blocks": 12, "block_size": 16, "host_memory": 2**20}, {}),
        ({"num_blocks": 64, "block_size": 16, "response_cache_entries": 16}, {}),
    ],
    ids=["short pool", "no prefix cache", "host memory", "response cache"],
)
def test_whatever_the_cache_does(folders, alone, cache, sections):
    names = ["a", "b", None, "a", "b", "a"]
    with make(folders, cache, **sections) as llm:
        for _ in range(2):
            assert ask(llm, names) == [[alone[name][place]] for place, name in enumerate(names)]
        others = ["b", None, "a", "b", "a", None]
        assert ask(llm, others) == [[alone[name][place]] for place, name in enumerate(others)]


def test_speculation(folders, alone):
    names = ["a", "b", None, "a", "b", "a"]
    scheduler = SCHEDULER | {"num_speculative_tokens": 3}
    model = MODEL | {"lora_adapters": folders}
    with make_llm(model=model, scheduler=scheduler, cache={"num_blocks": 64, "block_size": 16}) as llm:
        assert ask(llm, names) == [[alone[name][place]] for place, name in enumerate(names)]


def test_weights_of_few_bits(folders):
    """The adapter is added to what the blocks give: as with the plain operators it is to floats."""
    with make(folders, model={"weight_dtype": "int8"}) as llm:
        near = llm.score(PROMPTS[:2])
        adapted = llm.generate(PROMPTS[:2], SamplingParams(max_tokens=1, prompt_logprobs=0), lora_adapter="a")
    with make(folders, runtime={"fused_ops": False}) as llm:
        expected = llm.generate(PROMPTS[:2], SamplingParams(max_tokens=1, prompt_logprobs=0), lora_adapter="a")
    for of_blocks, of_floats, of_model in zip(adapted, expected, near):
        logprobs, others = ([token.logprob for token in each.prompt_logprobs[1:]] for each in (of_blocks, of_floats))
        difference = np.abs(np.subtract(logprobs, others)).mean()
        assert difference < 0.2 * np.abs(np.subtract(logprobs, of_model)).mean()


@pytest.mark.slow
def test_on_the_emulated_chip(folders):
    """Whose layers are then computed operator by operator, with the adapter beside each projection."""
    cache, params = {"num_blocks": 64, "block_size": 16, "kv_cache_dtype": "float16"}, SamplingParams(max_tokens=4)
    answers = []
    for backend in ("ascend_emulator", "cpu"):
        with make(folders, cache, runtime={"ops_backend": backend}) as llm:
            answers.append([ask(llm, name, params) for name in ("a", None)])
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]


def test_loading_and_unloading(llm, folders, alone, tmp_path):
    """Under another name it answers the same; a name given anew is another adapter's; what is full stays as it is."""
    llm.load_lora_adapter("again", folders["b"])
    assert ask(llm, "again") == [[answer] for answer in alone["b"]]
    with pytest.raises(RequestError, match="finds no place: model.max_loras is 3"):
        llm.load_lora_adapter("more", folders["a"])
    with pytest.raises(RequestError, match="lora_name 'again' is in use"):
        llm.load_lora_adapter("again", folders["a"])
    llm.unload_lora_adapter("again")
    with pytest.raises(RequestError, match="lora_adapter is 'again', which is not loaded; loaded: a, b"):
        ask(llm, "again")
    llm.load_lora_adapter("again", folders["a"])
    assert ask(llm, "again") == [[answer] for answer in alone["a"]]
    llm.unload_lora_adapter("again")
    with pytest.raises(RequestError, match="adapter 'large' has rank 5; model.max_lora_rank is 4"):
        llm.load_lora_adapter("large", write_adapter(tmp_path / "large", CONFIG, 9, rank=5))
    with pytest.raises(RequestError, match="adapter_config.json: no such file"):
        llm.load_lora_adapter("none", tmp_path)
    assert llm.engine.lora.names == ("a", "b")
    assert llm.engine.runner.compiles_after_warmup == 0


def test_requests_under_way_keep_an_adapter_that_is_unloaded(folders, alone):
    """Their place is given to nobody before they end."""

    async def run(llm):
        engine = AsyncLLM(llm)
        first = await engine.make_request(PROMPTS[0], PARAMS, lora_adapter="a")
        late = await engine.make_request(PROMPTS[1], PARAMS, lora_adapter="a")
        tokens = []
        async for update in engine.generate(first):
            if not tokens:
                await asyncio.to_thread(llm.unload_lora_adapter, "a")
                with pytest.raises(RequestError, match="finds no place"):
                    await asyncio.to_thread(llm.load_lora_adapter, "other", folders["a"])
                with pytest.raises(RequestError, match="'a' was unloaded before the request began"):
                    await engine.run(late)
            tokens += update.token_ids
        await asyncio.to_thread(llm.load_lora_adapter, "other", folders["a"])
        return tokens

    with make(folders) as llm:
        assert asyncio.run(run(llm)) == alone["a"][0]
        llm.engine.check_integrity()
        assert ask(llm, "other") == [[answer] for answer in alone["a"]]


def test_beams(llm, alone):
    """One beam is a greedy answer; several fork over the adapter's pages."""
    params = BeamSearchParams(beam_width=1, max_tokens=24, ignore_eos=True)
    assert [answer.outputs[0].token_ids for answer in llm.beam_search(PROMPTS, params, lora_adapter="a")] == alone["a"]
    wide = BeamSearchParams(beam_width=3, max_tokens=24, ignore_eos=True)
    plain, adapted = (llm.beam_search(PROMPTS[:1], wide, lora_adapter=name)[0].outputs for name in (None, "a"))
    assert plain[0].token_ids != adapted[0].token_ids
    llm.engine.check_integrity()


def test_embeddings(folders):
    with make(folders, runtime={"embeddings": True}) as llm:
        plain, adapted = (
            llm.run([llm.make_embedding_request(PROMPTS[0], lora_adapter=name)])[0].embedding for name in (None, "a")
        )
        assert abs(plain @ adapted) < 0.999


def test_no_room_at_all(folders):
    with make({}) as llm:
        with pytest.raises(RequestError, match="this engine has no room for adapters"):
            llm.load_lora_adapter("a", folders["a"])


@pytest.mark.parametrize("model", [{"max_loras": 1}, {"max_lora_rank": 3}], ids=["too many", "too large"])
def test_configurations_that_are_refused(folders, model):
    with pytest.raises(ConfigError, match=r"model\.max_lora"):
        make(folders, model=model)


def test_an_export_is_refused(folders, tmp_path):
    config = config_from_dict({"model": MODEL | {"weights": "random", "max_loras": 1}, "scheduler": SCHEDULER})
    with pytest.raises(ConfigError, match=r"model\.max_loras must not be set for an export"):
        export_model(config, tmp_path / "exported", show_progress=False)
