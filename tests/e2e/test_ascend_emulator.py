"""Whole models decode through the Ascend C kernels, on the emulated chip, inside the static graph."""

import json
from pathlib import Path

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.step_inputs import StepInputs
from tests.e2e.models import make_llm

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2_135m.json").read_text(encoding="utf-8"))
PROMPTS = [case["prompt"] for case in GOLDENS["cases"] if "prompt" in case][:4]
NUM_TOKENS = 20


def make(weights, ops_backend, cache=None, scheduler=None, runtime=None, **sections):
    return make_llm(
        weights,
        cache={"kv_cache_dtype": "float16", "num_blocks": 40} | (cache or {}),
        scheduler={"max_num_seqs": 4, "max_num_batched_tokens": 64, "token_buckets": [4, 64]} | (scheduler or {}),
        runtime={"ops_backend": ops_backend} | (runtime or {}),
        **sections,
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


WIDE_HEADS = {"name": "tiny", "weights": "random", "config": {"head_dim": 32}}


@pytest.mark.slow
def test_pages_of_int8_serve_the_same_tokens_as_on_the_cpu_kernels():
    """Heads of 32, which the kernels ask for; the pager's operators move the scales with the pages."""
    cache = {"kv_cache_dtype": "int8", "num_blocks": 9, "host_memory": "10MB", "swap": "always"}
    prompts = [list(range(3, 40)), list(range(5, 60)), list(range(3, 40))]
    params = {"max_tokens": 20, "n": 2, "temperature": 1.0, "seed": 7}
    llms = [
        make("random", backend, cache, {"max_model_len": 120}, model=WIDE_HEADS)
        for backend in ("ascend_emulator", "cpu")
    ]
    results = []
    for llm in llms:
        results.append([answers(llm, [prompt], **params) for prompt in prompts])
        assert llm.get_statistics()["num_pages_loaded"] > 0
    assert results[0] == results[1]
    assert results[0][0] == results[0][2]


@pytest.mark.slow
def test_a_float16_model_over_int8_pages_computes_what_it_does_on_the_cpu_kernels():
    """Within the rounding of float16; sampled tokens would make a jump of the smallest difference."""
    tokens = np.arange(3, 63, dtype=np.int32)
    nothing, wanted = np.zeros_like(tokens), np.arange(56, 60, dtype=np.int32)
    table = np.stack([nothing[:4], np.arange(4, dtype=np.int32)], axis=1)
    step = StepInputs(tokens, tokens - 3, nothing, wanted, table, np.array([7, 2, 5, 1], np.int32))
    llms = [
        make("random", backend, {"kv_cache_dtype": "int8"}, model=WIDE_HEADS | {"dtype": "float16"})
        for backend in ("ascend_emulator", "cpu")
    ]
    emulated, expected = (llm.engine.runner.run(step) for llm in llms)
    np.testing.assert_allclose(emulated, expected, atol=5e-2)


@pytest.mark.slow
def test_embeddings_are_those_of_the_cpu_kernels():
    """Within the rounding of float16 pages."""
    prompts = [list(range(3, 40)), [7], list(range(5, 100))]
    vectors = []
    for backend in ("ascend_emulator", "cpu"):
        llm = make("random", backend, runtime={"embeddings": True})
        vectors.append([[o.embedding for o in llm.embed(prompts, pooling)] for pooling in ("mean", "last")])
        assert llm.get_statistics()["compiles_after_warmup"] == 0
    np.testing.assert_allclose(*vectors, rtol=0, atol=5e-3)


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
