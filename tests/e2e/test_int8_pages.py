"""Whole runs over pages of int8, whose scales go wherever the pages go; what was not written holds scales of NaN."""

import random

import numpy as np
import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.exporting import export_model
from mindspore_paged.errors import CheckpointError
from tests.e2e.models import make_llm, make_llm_over, poison_pages

RNG = random.Random(7)
SHARED = [RNG.randrange(256) for _ in range(20)]
PROMPTS = [[*(SHARED if n % 2 else ()), *(RNG.randrange(256) for _ in range(9 + 3 * n))] for n in range(6)]
GREEDY = SamplingParams(max_tokens=30)
SCHEDULER = {"max_num_seqs": 6, "max_num_batched_tokens": 64, "token_buckets": [6, 64], "max_model_len": 96}
PAGE_BYTES = 2 * 2 * 16 * 2 * (16 + 4)
"""Of the tiny model: two layers, keys and values, 16 tokens, two KV heads of 16 int8 numbers and a float32 scale."""


def tokens_of(outputs) -> list[list[int]]:
    return [sequence.token_ids for output in outputs for sequence in output.outputs]


@pytest.fixture(scope="module")
def cramped():
    return make_llm(cache={"num_blocks": 11, "kv_cache_dtype": "int8"}, scheduler=SCHEDULER)


@pytest.fixture(scope="module")
def roomy():
    return make_llm(cache={"num_blocks": 64, "kv_cache_dtype": "int8"}, scheduler=SCHEDULER)


@pytest.fixture(scope="module")
def expected(roomy):
    """Each prompt alone."""
    return [tokens_of(roomy.generate(prompt, GREEDY))[0] for prompt in PROMPTS]


def test_the_answers_are_nearly_those_over_float_pages(roomy, expected):
    """Most of the first tokens: later ones follow from what came before."""
    assert roomy.engine.runner.kv_cache_bytes == 64 * PAGE_BYTES
    floats = make_llm(cache={"num_blocks": 64}, scheduler=SCHEDULER)
    answers = [tokens_of(floats.generate(prompt, GREEDY))[0] for prompt in PROMPTS]
    same = [answer[0] == other[0] for answer, other in zip(answers, expected, strict=True)]
    assert sum(same) >= 5


def test_host_and_file_tier_give_back_what_they_got(cramped, roomy, expected, tmp_path):
    """Host memory for three pages, sealed files for the rest; preempted, copied on write and moved together besides."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    cache = {"num_blocks": 11, "kv_cache_dtype": "int8", "swap": "always", "compaction": True}
    tiers = {"host_memory": 3 * PAGE_BYTES, "page_files": str(tmp_path / "pages"), "page_key": str(key)}
    llm = make_llm_over(cramped, cache=cache | tiers, scheduler=SCHEDULER)
    for prompts, answers in ((PROMPTS[:1], expected[:1]), (PROMPTS, expected), (PROMPTS[::-1], expected[::-1])):
        assert tokens_of(llm.generate(prompts, GREEDY)) == answers
    statistics = llm.get_statistics()
    assert statistics["num_preemptions"] > 0
    assert statistics["num_pages_loaded"] > 0
    assert llm.engine.mover.host_tier.statistics()["loaded"] > 0
    llm.engine.check_integrity()
    assert all(b'"seal":"' in path.read_bytes() for path in (tmp_path / "pages").rglob("*.safetensors"))
    with pytest.raises(CheckpointError, match="not sealed with the key of this engine"):
        llm.import_prefix(roomy.export_prefix(SHARED))
    llm.close()


def test_answers_that_part_have_copies_of_their_own(roomy):
    params = SamplingParams(max_tokens=12, ignore_eos=True, temperature=1.0, n=3, seed=1)
    together = tokens_of(roomy.generate(SHARED, params))
    assert together == tokens_of(roomy.generate(SHARED, params))
    assert len(set(map(tuple, together))) == 3


def test_a_prefix_goes_to_int8_pages_only(cramped, roomy, expected):
    exported = roomy.export_prefix(SHARED)
    llm = make_llm_over(cramped, cache={"num_blocks": 11, "kv_cache_dtype": "int8"}, scheduler=SCHEDULER)
    assert llm.import_prefix(exported) == 16
    assert tokens_of(llm.generate(PROMPTS[1], GREEDY)) == expected[1:2]
    small = {"max_num_seqs": 1, "max_num_batched_tokens": 8, "token_buckets": [8], "max_model_len": 96}
    for dtype in ("float32", "float16"):
        with pytest.raises(CheckpointError, match="model_fingerprint is"):
            make_llm(cache={"num_blocks": 11, "kv_cache_dtype": dtype}, scheduler=small).import_prefix(exported)


def test_an_exported_model_keeps_them(roomy, expected, tmp_path):
    config = config_from_dict(
        {
            "model": {"weights": "random", "name": "tiny"},
            "cache": {"num_blocks": 64, "kv_cache_dtype": "int8"},
            "scheduler": SCHEDULER,
            "runtime": {"debug": True},
        }
    )
    folder = export_model(config, tmp_path / "exported", show_progress=False)
    llm = LLM.from_mindir(folder, show_progress=False)
    poison_pages(llm.engine.runner.kv_pool)
    assert llm.engine.runner.kv_pool.dtype == "int8"
    assert [tokens_of(llm.generate(prompt, GREEDY))[0] for prompt in PROMPTS] == expected
    (page,) = llm.engine.runner.read_pages([1])
    assert (page.dtype, page.nbytes) == (np.int8, PAGE_BYTES)
