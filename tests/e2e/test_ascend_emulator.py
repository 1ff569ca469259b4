"""Whole models decode through the Ascend C kernels, on the emulated chip, inside the static graph."""

import json
from pathlib import Path

import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2_135m.json").read_text(encoding="utf-8"))
PROMPTS = [case["prompt"] for case in GOLDENS["cases"] if "prompt" in case][:4]
NUM_TOKENS = 20


def make(weights, ops_backend, cache=None, scheduler=None):
    return make_llm(
        weights,
        cache={"kv_cache_dtype": "float16", "num_blocks": 40} | (cache or {}),
        scheduler={"max_num_seqs": 4, "max_num_batched_tokens": 64, "token_buckets": [4, 64]} | (scheduler or {}),
        runtime={"ops_backend": ops_backend},
    )


def answers(llm, prompts, **params):
    outputs = llm.generate(prompts, SamplingParams(ignore_eos=True, **params))
    llm.engine.check_integrity()
    assert llm.get_statistics()["compiles_after_warmup"] == 0
    return [sequence.token_ids for output in outputs for sequence in output.outputs]


@pytest.mark.slow
def test_the_demo_model_writes_the_same_text_as_on_the_cpu_kernels(demo_model):
    """Prefill in chunks, four rows a step."""
    llms = [make(demo_model, backend) for backend in ("ascend_emulator", "cpu")]
    emulated, expected = (answers(llm, PROMPTS, max_tokens=NUM_TOKENS) for llm in llms)
    assert emulated == expected
    assert [len(tokens) for tokens in emulated] == [NUM_TOKENS] * 4


def test_every_operator_of_the_pager_runs_on_the_emulated_chip():
    """Two sequences from one prompt copy the block they share; in a pool this small pages go to the host and back."""
    first, second = list(range(3, 40)), list(range(5, 60))
    cache = {"num_blocks": 9, "host_memory": "10MB", "swap": "always"}
    llms = [make("random", backend, cache, {"max_model_len": 120}) for backend in ("ascend_emulator", "cpu")]
    results = []
    for llm in llms:
        results.append(
            [answers(llm, [prompt], max_tokens=20, n=2, temperature=1.0, seed=7) for prompt in (first, second, first)]
        )
        statistics = llm.get_statistics()
        assert statistics["num_pages_saved"] > 0
        assert statistics["num_pages_loaded"] > 0
    assert results[0] == results[1]
    assert results[0][0] == results[0][2]
    assert results[0][0][0] != results[0][0][1], "the two have parted"
