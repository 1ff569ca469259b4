"""What the engine counts while it runs, and the statistics that it reports."""

from dataclasses import dataclass

from mindspore_paged.engine.execution.page_mover import PageMover
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.engine.scheduling.speculation import Speculation


@dataclass
class Metrics:
    """Running totals; times in seconds of time.perf_counter(). `start_step` and the engine's own additions mutate."""

    num_steps: int = 0
    num_requests_finished: int = 0
    num_requests_failed: int = 0
    num_response_cache_hits: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_sequence_steps: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_computed_tokens: int = 0
    busy_seconds: float = 0.0
    time_to_first_token_sum: float = 0.0
    num_first_tokens: int = 0
    slots_held: int = 0
    slots_filled: int = 0
    peak_used_blocks: int = 0

    def record_step(self, num_tokens: int, seconds: float) -> None:
        """Take note of a step of `num_tokens` tokens."""
        self.num_steps += 1
        self.num_computed_tokens += num_tokens
        self.busy_seconds += seconds

    def record_pool(self, scheduler: Scheduler) -> None:
        """Take note of how full the used pages are in one step."""
        cache = scheduler.cache
        num_used, num_slots = cache.pool.num_used, cache.pool.num_used * cache.block_size
        num_tokens = sum(sequence.num_computed_tokens for sequence in scheduler.running)
        self.slots_held += num_slots
        self.slots_filled += num_slots - (cache.num_reserved_tokens - num_tokens)
        self.peak_used_blocks = max(self.peak_used_blocks, num_used)

    def record_tokens(self, num_tokens: int, num_drafts: int, num_accepted: int) -> None:
        """Take note of what one step brought one sequence, and how many of its drafts became tokens."""
        self.num_output_tokens += num_tokens
        self.num_sequence_steps += 1
        self.num_drafts += num_drafts > 0
        self.num_draft_tokens += num_drafts
        self.num_accepted_tokens += num_accepted

    def record_beams(self, num_beams: int) -> None:
        """Take note of a token for each of so many beams; those of beams that are dropped later count, too."""
        self.num_output_tokens += num_beams
        self.num_sequence_steps += num_beams

    def record_first_token(self, seconds: float, num_prompt_tokens: int) -> None:
        """Take note of one request's time from arrival to its first token, and of the prompt that is done with."""
        self.num_prompt_tokens += num_prompt_tokens
        self.time_to_first_token_sum += seconds
        self.num_first_tokens += 1

    @property
    def block_utilization(self) -> float:
        """Share of the slots in used pages that hold a token, over all steps."""
        return _ratio(self.slots_filled, self.slots_held)

    @property
    def throughput(self) -> float:
        """Generated tokens a second of the time spent in steps."""
        return _ratio(self.num_output_tokens, self.busy_seconds)

    @property
    def tokens_per_sequence_step(self) -> float:
        """Mean of the tokens that a step brings a sequence: 1 without speculation."""
        return _ratio(self.num_output_tokens, self.num_sequence_steps)

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of the drafts that became tokens."""
        return _ratio(self.num_accepted_tokens, self.num_draft_tokens)

    @property
    def time_to_first_token_s(self) -> float:
        """Mean over the requests that got a token."""
        return _ratio(self.time_to_first_token_sum, self.num_first_tokens)


def collect_statistics(
    metrics: Metrics, scheduler: Scheduler, mover: PageMover, runner: Runner
) -> dict[str, float | int]:
    """Figures since the engine was built.

    memory_usage_gb: weights and pages, in 10^9 bytes. block_utilization: share of the slots in used pages that hold
    a token, over all steps; pool_utilization: most of the pool's pages in use at once. throughput: generated tokens
    a second of the time in steps. prefix_cache_hit_rate: share of the tokens of starting (and restarting)
    sequences that were found in the cache. time_to_first_token_s: mean, from arrival. tokens_per_sequence_step: mean
    of the tokens that a step brings a sequence; draft_acceptance_rate: share of the drafts that became tokens, of which
    num_draft_tokens_pos_<p> and num_accepted_tokens_pos_<p> count those at place p of a sequence's step, from 0 on, and
    num_drafts the steps of sequences that had any. The rest are counts: of now num_running, num_waiting (sequences) and
    num_used_blocks; since the start num_prompt_tokens, those of prompts that got a first token or an embedding, and
    num_prefix_hit_tokens of num_prefix_query_tokens, whose share is prefix_cache_hit_rate.
    """
    num_blocks = scheduler.cache.pool.num_blocks
    return {
        "memory_usage_gb": (runner.weight_bytes + runner.kv_cache_bytes) / 1e9,
        "weights_gb": runner.weight_bytes / 1e9,
        "kv_cache_gb": runner.kv_cache_bytes / 1e9,
        "block_utilization": metrics.block_utilization,
        "pool_utilization": metrics.peak_used_blocks / (num_blocks - 1),
        "throughput": metrics.throughput,
        "time_to_first_token_s": metrics.time_to_first_token_s,
        "prefix_cache_hit_rate": scheduler.prefix_cache_hit_rate,
        "tokens_per_sequence_step": metrics.tokens_per_sequence_step,
        "draft_acceptance_rate": metrics.draft_acceptance_rate,
        "num_blocks": num_blocks,
        "num_usable_blocks": scheduler.cache.pool.num_usable,
        "num_used_blocks": scheduler.cache.pool.num_used,
        "fragmentation": scheduler.cache.pool.free_runs.fragmentation,
        "num_running": len(scheduler.running),
        "num_waiting": len(scheduler.waiting),
        "num_prefix_query_tokens": scheduler.num_admitted_tokens,
        "num_prefix_hit_tokens": scheduler.num_cached_tokens,
        "num_preemptions": scheduler.num_preemptions,
        "num_compactions": mover.num_compactions,
        "num_blocks_moved": mover.num_blocks_moved,
        "num_pages_saved": mover.num_pages_saved,
        "num_pages_loaded": mover.num_pages_loaded,
        "num_response_cache_hits": metrics.num_response_cache_hits,
        "num_steps": metrics.num_steps,
        "num_computed_tokens": metrics.num_computed_tokens,
        "num_prompt_tokens": metrics.num_prompt_tokens,
        "num_output_tokens": metrics.num_output_tokens,
        "num_drafts": metrics.num_drafts,
        "num_draft_tokens": metrics.num_draft_tokens,
        "num_accepted_tokens": metrics.num_accepted_tokens,
        "num_requests_finished": metrics.num_requests_finished,
        "num_requests_failed": metrics.num_requests_failed,
        "compiled_graphs": runner.num_compiles,
        "compiles_after_warmup": runner.compiles_after_warmup,
        **_drafts_by_position(scheduler.speculation),
    }


def _drafts_by_position(speculation: Speculation | None) -> dict[str, int]:
    if speculation is None:
        return {}
    pairs = zip(speculation.num_drafts_per_pos, speculation.num_accepted_per_pos, strict=True)
    figures = {}
    for place, (num_drafts, num_accepted) in enumerate(pairs):
        figures |= {f"num_draft_tokens_pos_{place}": num_drafts, f"num_accepted_tokens_pos_{place}": num_accepted}
    return figures


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
