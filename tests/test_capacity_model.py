"""Capacity planning, against arithmetic by hand for LLaMA-2 70B and against the engine's own scheduler."""

import dataclasses
import math

import numpy as np
import pytest

from mindspore_paged.benchmarking.paging import PAGED, serve_on_paper
from mindspore_paged.cache.pool_size import num_blocks_for_budget
from mindspore_paged.capacity_model import Deployment, capacities, mean_held
from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.scaling_model import Cards

LLAMA_70B = MODEL_CONFIGS["llama2-70b"]
# One embedding and one output table of 32000 x 8192, 80 layers, a last norm.
LAYER = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
WEIGHTS_70B = 2 * 32000 * 8192 + 80 * LAYER + 8192


def deployment(ranks=1, memory_gb=200.0, reserve_gb=0.0, block_size=16, model=LLAMA_70B, **cards):
    return Deployment(model, Cards(memory_gb=memory_gb, **cards), ranks, reserve_gb, block_size, 2, "float16")


def test_a_token_of_70b_takes_320_kib():
    assert deployment().kv_bytes_per_token == 80 * 8 * 128 * 2 * 2 == 327_680
    assert deployment(ranks=8).kv_bytes_per_token == 40_960
    # Sixteen ranks share eight KV heads: each still has one.
    assert deployment(ranks=16).kv_bytes_per_token == 40_960


def test_weights_of_70b_in_float16():
    assert deployment().weight_bytes == 2 * WEIGHTS_70B == 137_953_296_384
    # Norms are on every rank, all else is cut into eight.
    norms = (80 * 2 + 1) * 8192
    assert deployment(ranks=8).weight_bytes == 2 * ((WEIGHTS_70B - norms) // 8 + norms)


def test_the_budget_is_what_weights_and_reserve_leave():
    plan = deployment(ranks=8, memory_gb=64.0, reserve_gb=6.0, block_size=128)
    assert plan.kv_budget == 58_000_000_000 - plan.weight_bytes
    assert plan.num_blocks == plan.kv_budget // (40_960 * 128) == num_blocks_for_budget(plan.kv_budget, 40_960, 128)


def test_weights_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"weights take 138.0 GB .* no room for pages; raise --tensor-parallel"):
        deployment(memory_gb=64.0)


def test_ranks_that_do_not_divide_the_heads():
    with pytest.raises(ConfigError, match="it must divide the model's num_attention_heads, 64"):
        deployment(ranks=3)


def test_what_one_request_holds_by_hand():
    """A prompt of 15 and 4 tokens: 15, 16, 17 and 18 tokens in the cache, in 1, 1, 2 and 2 pages of 16."""
    held = mean_held([15], [4], 16)
    assert held.tokens == (15 + 16 + 17 + 18) / 4
    assert held.blocks == (1 + 1 + 2 + 2) / 4


def test_the_closed_form_is_the_sum():
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(1, 200, 50), rng.integers(1, 200, 50)
    tokens = [p + step for p, o in zip(prompts, outputs) for step in range(o)]
    held = mean_held(prompts, outputs, 16)
    assert held.tokens == pytest.approx(np.mean(tokens))
    assert held.blocks == pytest.approx(np.mean([math.ceil(n / 16) for n in tokens]))


@pytest.mark.parametrize("window", [1, 16, 40, 50, 500])
def test_what_is_behind_a_window_is_not_held(window):
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(1, 200, 50), rng.integers(1, 200, 50)
    behind = [(n, max(0, n + 1 - window)) for p, o in zip(prompts, outputs) for n in range(p, p + o)]
    held = mean_held(prompts, outputs, 16, window)
    assert held.tokens == pytest.approx(np.mean([n - gone for n, gone in behind]))
    assert held.blocks == pytest.approx(np.mean([math.ceil(n / 16) - gone // 16 for n, gone in behind]))


def test_a_model_whose_layers_all_slide_serves_more_long_sequences():
    sliding = MODEL_CONFIGS["mistral-7b-v0.1"]
    batches = [
        capacities(deployment(model=model), 32768, [16000], [8000])[1].largest_batch
        for model in (dataclasses.replace(sliding, sliding_window=None), sliding)
    ]
    assert batches[1] == pytest.approx(batches[0] * 20000 / 4096, rel=0.05)


def test_capacities_by_hand():
    """Room for 64 pages of 16: 4 sequences of 256 reserved, or 16 that hold 4 pages each."""
    plan = deployment(memory_gb=(2 * WEIGHTS_70B + 65 * 16 * 327_680) / 1e9, hbm_gb_s=1000.0, hbm_share=1.0)
    contiguous, paged = capacities(plan, 256, [63], [1])
    assert (contiguous.largest_batch, paged.largest_batch) == (4, 16)
    assert (contiguous.utilization, paged.utilization) == (63 / 256, 63 / 64)
    assert (contiguous.budget_used, paged.budget_used) == (4 * 63 / 1024, 16 * 63 / 1024)
    # One rank, no sums: the weights once and 63 tokens of each sequence, at 1000 GB/s.
    assert paged.step_ms == pytest.approx((2 * WEIGHTS_70B + 16 * 63 * 327_680) / 1e9)
    assert paged.tokens_per_second == pytest.approx(16 / paged.step_ms * 1e3)
    assert paged.mean_context == contiguous.mean_context == 63


def test_the_engines_own_limit_of_sequences():
    plan = deployment()
    contiguous, paged = capacities(plan, 512, [64], [64], max_batch=20)
    assert contiguous.largest_batch == paged.largest_batch == 20
    assert contiguous.tokens_per_second == paged.tokens_per_second


def test_a_pool_smaller_than_one_sequence():
    plan = deployment(memory_gb=(2 * WEIGHTS_70B + 10 * 16 * 327_680) / 1e9)
    with pytest.raises(ConfigError, match="pages have 144 tokens on a device, less than one sequence of max_model_len"):
        capacities(plan, 256, [64], [64])


def test_a_request_longer_than_max_model_len():
    with pytest.raises(ConfigError, match="a request of 257 tokens was drawn, but max_model_len is 256"):
        capacities(deployment(), 256, [128], [129])


def test_the_engines_scheduler_agrees():
    """Over a long run the real scheduler's utilization is the formula's; no pool limits, only rows."""
    config = config_from_dict(
        {
            "cache": {"num_blocks": 400, "enable_prefix_caching": False},
            "scheduler": {"max_num_seqs": 16, "max_num_batched_tokens": 256},
        }
    )
    rng = np.random.default_rng(0)
    prompts, outputs = rng.integers(16, 49, 160), rng.integers(16, 49, 160)
    requests = [([0] * int(p), int(o)) for p, o in zip(prompts, outputs)]
    paper = serve_on_paper(config, MODEL_CONFIGS["tiny"], PAGED, 256, requests)
    held = mean_held(prompts, outputs, 16)
    assert paper.served.utilization == pytest.approx(held.tokens / (16 * held.blocks), rel=0.03)
    assert paper.served.largest_batch == 16
    assert paper.served.num_output_tokens == outputs.sum()
    assert paper.served.num_preemptions == 0
