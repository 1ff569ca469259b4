"""Decode and prefill rates of an engine on random tokens: a fixed number of rows, all at one context."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from mindspore_paged.benchmarking.report import percentile
from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.errors import ConfigError, IntegrityError
from mindspore_paged.sampling.sampling_params import SamplingParams

WARM_UP_STEPS = 2
"""Decode steps before the measured ones: their pages, and the threads, are awake then."""


@dataclass(frozen=True)
class DecodeTimes:
    """Seconds of decode steps, one after the other, each of `batch` tokens."""

    batch: int
    context: int
    seconds: tuple[float, ...]

    @property
    def tokens_per_second(self) -> float:
        """All tokens over all the time, sampling included."""
        return self.batch * len(self.seconds) / sum(self.seconds)

    @property
    def step_ms_p50(self) -> float:
        """Milliseconds of the median step."""
        return 1e3 * percentile(self.seconds, 50)


def decode_config(
    path, overrides: Sequence[str], batches: Sequence[int], contexts: Sequence[int], num_steps: int, num_prefill: int
) -> EngineConfig:
    """The configuration in `path` with rows, pages and graphs for what is measured, and no others.

    A graph for each batch and one for prefill, so that no step is padded; raises ConfigError.
    """
    block_size = load_config(path, overrides).cache.block_size
    if block_size == "auto":
        raise ConfigError("cache.block_size is auto; give a number with --set cache.block_size=16")
    largest_step = max(num_prefill, *batches)
    longest = max(max(contexts) + 1 + num_steps + WARM_UP_STEPS + 1, num_prefill + 1)
    blocks = max(batches) * -(-longest // block_size) + -(-num_prefill // block_size) + 1
    buckets = sorted({*batches, largest_step})
    forced = [
        f"scheduler.max_num_seqs={max(batches)}",
        f"scheduler.max_num_batched_tokens={largest_step}",
        f"scheduler.token_buckets={buckets}",
        f"scheduler.max_model_len={longest}",
        f"cache.num_blocks={blocks + 1}",
        "cache.memory_budget=null",
        "cache.enable_prefix_caching=true",  # how rows come to stand at their context all at once
        "cache.response_cache_entries=0",
    ]
    return load_config(path, [*overrides, *forced])


def measure_prefill(llm, num_tokens: int, seed: int) -> float:
    """Tokens a second of one prompt of `num_tokens` that no cache knows, to its first token."""
    request = _request(llm, np.random.default_rng((seed, 1)), num_tokens, 1)
    started = perf_counter()
    _run_to_end(llm.engine, [request])
    return num_tokens / (perf_counter() - started)


def measure_decode(llm, batch: int, context: int, num_steps: int, seed: int) -> DecodeTimes:
    """Time `num_steps` decode steps of `batch` rows, the first with `context` tokens in each row's cache.

    Prompts are computed first, one after the other, and kept by the prefix cache; then all rows start from there
    together. Rows of one seed and context have the same prompts whatever the batch, so a second call finds them.
    """
    engine = llm.engine
    # One token more than the context: a cache hit never covers the last one, which is computed on admission.
    prompts = [_request(llm, np.random.default_rng((seed, 2, row)), context + 1, 1) for row in range(batch)]
    _run_to_end(engine, prompts)
    rows = [
        llm.make_request(
            request.prompt_token_ids, SamplingParams(max_tokens=num_steps + WARM_UP_STEPS + 1, ignore_eos=True)
        )
        for request in prompts
    ]
    try:
        for request in rows:
            engine.add_request(request)
        seconds = _decode_seconds(engine, batch)
    finally:
        for request in rows:
            engine.abort(request.request_id)
    if len(seconds) < num_steps:
        raise IntegrityError(f"{len(seconds)} of {num_steps} steps were decode steps of all {batch} rows")
    return DecodeTimes(batch, context, tuple(seconds[-num_steps:]))


def _decode_seconds(engine, batch: int) -> list[float]:
    """Step to the end; the times of those steps in which all rows decoded."""
    seconds = []
    while engine.has_unfinished:
        running = engine.scheduler.running
        counts = len(running) == batch and all(sequence.num_uncomputed_tokens == 1 for sequence in running)
        started = perf_counter()
        engine.step()
        if counts:
            seconds.append(perf_counter() - started)
    return seconds


def _request(llm, rng: np.random.Generator, num_tokens: int, num_output: int):
    prompt = rng.integers(llm.engine.limits.vocab_size, size=num_tokens).tolist()
    return llm.make_request(prompt, SamplingParams(max_tokens=num_output, ignore_eos=True))


def _run_to_end(engine, requests) -> None:
    for request in requests:
        engine.add_request(request)
    while engine.has_unfinished:
        engine.step()
