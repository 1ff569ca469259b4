"""What moves pages below, about and out of the pool, with the real kernels over pages full of NaN."""

import random

import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building import builder
from mindspore_paged.errors import CheckpointError, ConfigError, RequestError
from tests.e2e.models import make_llm, make_llm_over

RNG = random.Random(7)
SHARED = [RNG.randrange(256) for _ in range(20)]
PROMPTS = [[*(SHARED if n % 2 else ()), *(RNG.randrange(256) for _ in range(9 + 3 * n))] for n in range(6)]
GREEDY = SamplingParams(max_tokens=30)
SCHEDULER = {"max_num_seqs": 6, "max_num_batched_tokens": 64, "token_buckets": [6, 64], "max_model_len": 96}
TIER = {"host_memory": "1MiB", "swap": "always"}
FEATURES = {
    "no tier": {},
    "host memory": TIER,
    "compaction": {"compaction": True},
    "elastic capacity": {"elastic_min_blocks": 6},
    "all together": {**TIER, "compaction": True, "elastic_min_blocks": 6},
    "all without prefix caching": {"enable_prefix_caching": False, "compaction": True, "elastic_min_blocks": 6},
}


def tokens_of(outputs) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def cramped():
    """Ten pages; six sequences want four or so each."""
    llm = make_llm(cache={"num_blocks": 11}, scheduler=SCHEDULER)
    yield llm
    assert llm.engine.runner.num_compiles == 2 + 5, "the buckets; what copies pages, reads and writes one and several"


@pytest.fixture(scope="module")
def roomy():
    return make_llm(cache={"num_blocks": 64}, scheduler=SCHEDULER)


@pytest.fixture(scope="module")
def expected(roomy):
    """Each prompt alone."""
    return [tokens_of(roomy.generate(prompt, GREEDY))[0] for prompt in PROMPTS]


@pytest.mark.parametrize("name", FEATURES)
def test_tokens_are_those_of_each_prompt_alone(cramped, expected, name):
    cache = FEATURES[name]
    llm = make_llm_over(cramped, cache={"num_blocks": 11} | cache, scheduler=SCHEDULER)
    trigger, capacity = llm.engine.mover.trigger, llm.engine.scheduler.cache.capacity
    if trigger is not None:
        trigger.min_steps, trigger.fragmentation = 1, 0.01
    if capacity is not None:
        capacity.patience = 2
    sizes = set()
    for prompts, answers in ((PROMPTS[:1], expected[:1]), (PROMPTS, expected), (PROMPTS[::-1], expected[::-1])):
        assert tokens_of(llm.generate(prompts, GREEDY)) == answers
        sizes.add(llm.engine.scheduler.cache.pool.num_usable)
    statistics = llm.get_statistics()
    assert statistics["num_preemptions"] > 0
    assert (statistics["num_pages_loaded"] > 0) == ("host_memory" in cache)
    assert (statistics["num_blocks_moved"] > 0) == ("compaction" in cache)
    assert (len(sizes) > 1) == ("elastic_min_blocks" in cache)
    llm.engine.check_integrity()
    llm.close()


@pytest.mark.parametrize("smallest", [5, 11])
def test_elastic_bounds_are_checked_before_weights_are_read(monkeypatch, smallest):
    monkeypatch.delattr(builder, "load_weights")
    with pytest.raises(ConfigError) as error:
        make_llm(cache={"num_blocks": 11, "elastic_min_blocks": smallest}, scheduler=SCHEDULER)
    assert str(error.value) == (
        f"cache.elastic_min_blocks is {smallest}; it must be from 6, the longest sequence, to 10, the pool"
    )


def test_an_automatic_block_size_says_why(capsys):
    model, cache = {"name": "tiny", "weights": "random"}, {"block_size": "auto", "num_blocks": 3}
    config = config_from_dict({"model": model, "cache": cache, "scheduler": SCHEDULER | {"token_buckets": [64]}})
    with LLM(config) as llm:
        assert llm.engine.scheduler.cache.block_size == 128
        assert "block_size: 128 (sequences of up to 96 tokens)\n" in capsys.readouterr().err


def test_a_prefix_that_cannot_be_preloaded_is_named(cramped):
    with pytest.raises(ConfigError, match=r"^cache.preload_prefixes\[0\]: the prompt is text, but .* no tokenizer"):
        make_llm_over(cramped, cache={"num_blocks": 11, "preload_prefixes": ["You are"]}, scheduler=SCHEDULER)


def test_a_class_is_text(roomy):
    with pytest.raises(RequestError, match=r"request_class is \['a'\]; it must be text"):
        roomy.make_request([1], request_class=["a"])
    assert roomy.make_request([1], request_class="a").request_class == "a"


def test_a_prefix_goes_from_one_engine_to_another(cramped, roomy, expected):
    exported = roomy.export_prefix(SHARED)
    llm = make_llm_over(cramped, cache={"num_blocks": 11}, scheduler=SCHEDULER)
    assert llm.import_prefix(exported) == 16
    assert tokens_of(llm.generate(PROMPTS[1], GREEDY)) == expected[1:2]
    assert llm.get_statistics()["prefix_cache_hit_rate"] > 0


@pytest.mark.parametrize(
    ("model", "cache"),
    [({"seed": 1}, {}), ({"config": {"rms_norm_eps": 1e-3}}, {}), ({}, {"kv_cache_dtype": "float16"})],
)
def test_another_model_takes_no_prefix(cramped, model, cache):
    """Which differs only in its seed, in a number that no weight shows, or in the type of its pages."""
    exported = make_llm_over(cramped, cache={"num_blocks": 11}, scheduler=SCHEDULER).export_prefix(SHARED)
    small = {"max_num_seqs": 1, "max_num_batched_tokens": 8, "token_buckets": [8], "max_model_len": 96}
    tiny = {"weights": "random", "name": "tiny"}
    other = make_llm(cache={"num_blocks": 11} | cache, scheduler=small, model=tiny | model)
    with pytest.raises(CheckpointError, match="model_fingerprint is"):
        other.import_prefix(exported)
