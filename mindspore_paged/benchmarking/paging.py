"""The comparison of paged and contiguous caches: its requests, how they are served, and the same on paper."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from mindspore_paged.benchmarking.step_time import StepWork, work_of
from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.cache.pool_size import page_bytes_per_token
from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.execution.page_mover import PageMover
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.sampling.sampling_params import SamplingParams

CONTIGUOUS, PAGED = "contiguous", "paged"

ROWS = 16  # of the shortest requests that are drawn eight fit the pool whole, so it fills before these do
DECODE_BUCKETS = (1, 4, 8, 12, 16)


@dataclass(frozen=True)
class Served:
    """What one policy made of the requests; see bench_paged_vs_contiguous.py --help for the shares.

    num_pages_saved, num_pages_loaded: to host memory, and from there.
    """

    utilization: float
    budget_used: float
    largest_batch: int
    num_output_tokens: int
    busy_seconds: float
    num_preemptions: int
    num_pages_saved: int
    num_pages_loaded: int


def comparison_config(path: Path, overrides: Sequence[str], length: int) -> EngineConfig:
    """The configuration in `path` with a pool of one sequence of `length` tokens, the most it may have.

    At least ROWS sequences may run, each number of them in a graph not much larger: so the pool is what limits a
    policy.
    """
    config = load_config(path, overrides)
    block_size, scheduler = config.cache.block_size, config.scheduler
    rows = max(scheduler.max_num_seqs, min(ROWS, scheduler.max_num_batched_tokens))
    buckets = {bucket for bucket in DECODE_BUCKETS if bucket <= rows} | {*scheduler.resolved_token_buckets()}
    if block_size == "auto":
        raise ConfigError("cache.block_size is auto; give a number with --set cache.block_size=16")
    forced = [
        f"scheduler.max_model_len={length}",
        f"scheduler.max_num_seqs={rows}",
        f"scheduler.token_buckets={sorted(buckets)}",
        f"cache.num_blocks={-(-length // block_size) + 1}",  # and the null block
        "cache.memory_budget=null",
    ]
    return load_config(path, [*overrides, *forced])


def draw_requests(length: int, num_requests: int, seed: int, vocab_size: int) -> list[tuple[list[int], int]]:
    """Prompts and numbers of output tokens: each 1/16 to 3/16 of `length`, all as likely."""
    draws = random.Random(seed)
    requests = []
    for _ in range(num_requests):
        num_prompt, num_answer = (draws.randint(length // 16, 3 * length // 16) for _ in range(2))
        requests.append(([draws.randrange(vocab_size) for _ in range(num_prompt)], num_answer))
    return requests


@contextmanager
def pages_without_names(engine: LLMEngine) -> Iterator[None]:
    """No page gets a name meanwhile, as in a cache that knows no pages; afterwards those have none that had one."""
    cache, host_tier = engine.scheduler.cache, engine.mover.host_tier
    was_enabled, cache.enable_prefix_caching = cache.enable_prefix_caching, False
    cache.forget_blocks(cache.pool.cached_blocks())
    if host_tier is not None:
        host_tier.clear()
    try:
        yield
    finally:
        cache.enable_prefix_caching = was_enabled


def serve_all(
    engine: LLMEngine, policy: str, length: int, requests: Sequence, on_finished: Callable[[int], object]
) -> Served:
    """All requests, which come at once, to their end; on_finished gets the number that each step ended.

    Where pages are taken as a sequence grows, they have names, if the configuration wants it so: a preempted sequence
    then finds those again that are still there, or in host memory.
    """
    engine.scheduler.reserve_max_model_len = policy == CONTIGUOUS
    with pages_without_names(engine) if policy == CONTIGUOUS else nullcontext():
        return _serve_all(engine, length, requests, on_finished)


def _serve_all(engine: LLMEngine, length: int, requests: Sequence, on_finished: Callable[[int], object]) -> Served:
    scheduler, metrics, mover = engine.scheduler, engine.metrics, engine.mover
    busy, tokens_before, preemptions = metrics.busy_seconds, metrics.num_output_tokens, scheduler.num_preemptions
    saved, loaded = mover.num_pages_saved, mover.num_pages_loaded
    for prompt, num_answer in requests:
        params = SamplingParams(max_tokens=num_answer, ignore_eos=True)
        engine.add_request(engine.make_request(prompt, params))
    held_share, used_share, batches = [], [], []
    block_size, pool = scheduler.cache.block_size, scheduler.cache.pool
    while engine.has_unfinished:
        on_finished(len(engine.step().finished))
        if running := scheduler.running:
            tokens = sum(sequence.num_computed_tokens for sequence in running)
            blocks = (
                len(running) * scheduler.cache.blocks_for(length)
                if scheduler.reserve_max_model_len
                else sum(scheduler.cache.table.num_blocks(sequence.row) for sequence in running)
            )
            held_share.append(tokens / (blocks * block_size))
            used_share.append(tokens / ((pool.num_blocks - 1) * block_size))
            batches.append(len(running))
    return Served(
        fmean(held_share),
        fmean(used_share),
        max(batches),
        metrics.num_output_tokens - tokens_before,
        metrics.busy_seconds - busy,
        scheduler.num_preemptions - preemptions,
        mover.num_pages_saved - saved,
        mover.num_pages_loaded - loaded,
    )


@dataclass(frozen=True)
class PaperRun:
    """What the engine's own scheduler does with the requests, without a device: memory, shares, and every step."""

    kv_cache_bytes: int
    served: Served
    steps: list[StepWork]


def serve_on_paper(
    config: EngineConfig, model: ModelConfig, policy: str, length: int, requests: Sequence[tuple[list[int], int]]
) -> PaperRun:
    """The steps of `serve_all`, planned by the real scheduler over the real pool, computed by nobody.

    Answers' lengths are given and the sampled tokens change nothing, so every step is the one that would be run.
    """
    from mindspore_paged.engine.building.builder import build_scheduler  # which takes MindSpore along, so only here

    num_blocks, block_size = config.cache.num_blocks, config.cache.block_size
    page_bytes = block_size * page_bytes_per_token(model, config.kv_cache_dtype)
    table = BlockTable(config.scheduler.max_num_seqs, -(-length // block_size))
    host_tier = None
    if config.cache.host_memory is not None and config.cache.swap != "never":
        host_tier = HostTier(max(1, config.cache.host_memory // page_bytes) * PaperRunner.PAGE.nbytes)
    prefix_caching, window = config.cache.enable_prefix_caching, model.cache_window
    cache = CacheManager(BlockPool(num_blocks), table, block_size, prefix_caching, host_tier, window=window)
    runner = PaperRunner(config.scheduler.resolved_token_buckets())
    limits = ModelLimits(model.vocab_size, length, ())
    scheduler = build_scheduler(config, cache, length)
    mover = PageMover(scheduler, runner, host_tier, swap_cost=SwapCost("always"))  # what is free always pays
    engine = LLMEngine(scheduler, runner, None, limits, mover=mover)
    try:
        served = serve_all(engine, policy, length, requests, lambda count: None)
    finally:
        engine.close()
    return PaperRun(num_blocks * page_bytes, served, runner.steps)


class PaperRunner:
    """A runner that computes nothing and keeps a list of the steps it was asked for; of a page it has one byte."""

    PAGE = np.zeros(1, np.uint8)
    num_ranks = 1
    weight_bytes = kv_cache_bytes = num_compiles = compiles_after_warmup = 0

    def __init__(self, token_buckets: Sequence[int]):
        self.steps: list[StepWork] = []
        self._token_buckets = token_buckets

    def run(self, inputs) -> np.ndarray:
        """Zeros for logits."""
        self.steps.append(work_of(inputs, self._token_buckets))
        return np.zeros((len(inputs.logit_indices), 2), np.float32)

    def copy_blocks(self, pairs) -> None:
        """Nothing."""

    def read_pages(self, block_ids) -> list[np.ndarray]:
        """A byte for each."""
        return [self.PAGE.copy() for _ in block_ids]

    def write_pages(self, block_ids, pages) -> None:
        """Nothing."""

    def block_tables(self) -> list[np.ndarray]:
        """Of no device."""
        return []

    def close(self) -> None:
        """Nothing."""
