"""The statistics of several engines as those of one."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.metrics import Metrics

MAXIMA = frozenset(
    {
        *("memory_usage_gb", "weights_gb", "kv_cache_gb"),
        *("pool_utilization", "fragmentation"),
        *("compiled_graphs", "compiles_after_warmup", "tensor_parallel_size"),
    }
)
MEANS = frozenset(
    {
        *("block_utilization", "throughput", "time_to_first_token_s", "prefix_cache_hit_rate"),
        *("tokens_per_sequence_step", "draft_acceptance_rate"),
    }
)


@dataclass(frozen=True)
class Figures:
    """What one engine counted: its statistics, and the totals behind them."""

    statistics: dict[str, float | int]
    metrics: Metrics


def figures_of(engine: LLMEngine) -> Figures:
    """The figures of an engine as they are now."""
    return Figures(engine.get_statistics(), engine.metrics)


def merge_figures(
    replicas: Sequence[Figures], num_requests: Sequence[int], num_prompt_tokens: Sequence[int]
) -> dict[str, float | int]:
    """One set of statistics under the names of `LLMEngine.get_statistics`, for what was sent to each replica.

    Maxima: memory, compiled graphs and tensor_parallel_size, which are those of one process, and pool_utilization and
    fragmentation. Means over everything that ran: block_utilization, time_to_first_token_s, tokens_per_sequence_step,
    draft_acceptance_rate, and prefix_cache_hit_rate, the last weighted by the prompt tokens sent to each. throughput:
    all tokens over the busiest replica's time in steps, for replicas work side by side. All else is counts, and
    summed. data_parallel_size: replicas.
    num_requests_replica_<r>: requests that were sent to replica r.
    """
    statistics = [replica.statistics for replica in replicas]
    totals = _total([replica.metrics for replica in replicas])
    merged = {name: (max if name in MAXIMA else sum)(figures[name] for figures in statistics) for name in statistics[0]}
    hits = sum(f["prefix_cache_hit_rate"] * tokens for f, tokens in zip(statistics, num_prompt_tokens, strict=True))
    return merged | {
        "block_utilization": totals.block_utilization,
        "throughput": totals.throughput,
        "time_to_first_token_s": totals.time_to_first_token_s,
        "tokens_per_sequence_step": totals.tokens_per_sequence_step,
        "draft_acceptance_rate": totals.draft_acceptance_rate,
        "prefix_cache_hit_rate": hits / max(1, sum(num_prompt_tokens)),
        "data_parallel_size": len(replicas),
        **{f"num_requests_replica_{replica}": count for replica, count in enumerate(num_requests)},
    }


def _total(metrics: Sequence[Metrics]) -> Metrics:
    total = Metrics(**{key.name: sum(getattr(one, key.name) for one in metrics) for key in fields(Metrics)})
    total.busy_seconds = max(one.busy_seconds for one in metrics)
    return total
