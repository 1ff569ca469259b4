"""Prometheus metrics under vLLM's names, so that dashboards and routers made for it work with this server.

Names, labels and buckets as in vLLM's vllm/v1/metrics/loggers.py.
"""

import itertools
from collections.abc import Iterator, Mapping

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.serving.answer_record import AnswerRecord

# fmt: off
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST_BUCKETS = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)
# fmt: on
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
FINISH_REASONS = ("stop", "length", "abort", "error")

GAUGES = {
    "vllm:num_requests_running": ("num_running", "Sequences that run"),
    "vllm:num_requests_waiting": ("num_waiting", "Sequences that wait to run"),
}
COUNTERS = {
    "vllm:prefix_cache_queries": ("num_prefix_query_tokens", "Tokens of sequences that started or restarted"),
    "vllm:prefix_cache_hits": ("num_prefix_hit_tokens", "Those of them that the prefix cache held"),
    "vllm:num_preemptions": ("num_preemptions", "Times that a sequence lost its pages to another"),
    "vllm:prompt_tokens": ("num_prompt_tokens", "Tokens of prompts that are done with"),
    "vllm:generation_tokens": ("num_output_tokens", "Tokens that were generated"),
    "vllm:spec_decode_num_drafts": ("num_drafts", "Times that a sequence guessed ahead"),
    "vllm:spec_decode_num_draft_tokens": ("num_draft_tokens", "Tokens that were guessed ahead"),
    "vllm:spec_decode_num_accepted_tokens": ("num_accepted_tokens", "Those of them that became tokens"),
}
"""By metric: the engine's statistic (see `LLMEngine.get_statistics`), and what it counts."""

HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("From arrival to the first token", FIRST_TOKEN_BUCKETS),
    "vllm:inter_token_latency_seconds": ("Between two steps that brought a sequence tokens", TOKEN_BUCKETS),
    "vllm:request_time_per_output_token_seconds": ("Mean between a request's tokens", TOKEN_BUCKETS),
    "vllm:e2e_request_latency_seconds": ("From arrival to the end", REQUEST_BUCKETS),
    "vllm:request_queue_time_seconds": ("From arrival until it first ran", REQUEST_BUCKETS),
    "vllm:request_prefill_time_seconds": ("From when it first ran to the first token", REQUEST_BUCKETS),
    "vllm:request_decode_time_seconds": ("From the first token to the last", REQUEST_BUCKETS),
    "vllm:request_inference_time_seconds": ("From when it first ran to the last token", REQUEST_BUCKETS),
}
COUNT_HISTOGRAMS = {
    "vllm:request_prompt_tokens": "Tokens of a request's prompt",
    "vllm:request_generation_tokens": "Tokens of a request's texts",
    "vllm:request_params_max_tokens": "max_tokens of a request",
}


class ServerMetrics:
    """What a server counts of the requests that have ended; `count` mutates. It has a registry of its own.

    model_name: the label that vLLM's dashboards choose by. max_model_len: bounds the buckets of counts of tokens.
    """

    def __init__(self, model_name: str, max_model_len: int):
        self._labels = {"model_name": model_name, "engine": "0"}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        counts = _one_two_five(max_model_len)
        described = HISTOGRAMS | {name: (text, counts) for name, text in COUNT_HISTOGRAMS.items()}
        self._histograms = {
            name: Histogram(name, text, [*self._labels], buckets=buckets, registry=self._registry).labels(
                **self._labels
            )
            for name, (text, buckets) in described.items()
        }
        ended = Counter(
            "vllm:request_success",
            "Sequences that ended, by reason",
            [*self._labels, "finished_reason"],
            registry=self._registry,
        )
        self._ended = {reason: ended.labels(**self._labels, finished_reason=reason) for reason in FINISH_REASONS}

    def count(self, answer: AnswerRecord) -> None:
        """Count a request whose stream has ended."""
        for reason in answer.finish_reasons:
            self._ended[reason].inc()
        for gap in answer.gaps:
            self._histograms["vllm:inter_token_latency_seconds"].observe(gap)
        for name, value in _figures(answer):
            self._histograms[name].observe(value)

    def render(self, statistics: Mapping[str, float | int]) -> bytes:
        """All metrics in Prometheus's text format.

        statistics: of `get_statistics`, as they are now.
        """
        return generate_latest(_Snapshot(self._registry, statistics, self._labels))


class _Snapshot(Collector):
    """The metrics of one moment: what the registry has, and figures of the engine."""

    def __init__(self, registry: CollectorRegistry, statistics: Mapping[str, float | int], labels: Mapping[str, str]):
        self._registry = registry
        self._statistics = statistics
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        for name, (statistic, text) in GAUGES.items():
            yield self._labelled(GaugeMetricFamily(name, text, labels=[*self._labels]), self._statistics[statistic])
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Pages that are held; 1 is all", labels=[*self._labels])
        yield self._labelled(usage, self._statistics["num_used_blocks"] / self._num_blocks)
        for name, (statistic, text) in COUNTERS.items():
            yield self._labelled(CounterMetricFamily(name, text, labels=[*self._labels]), self._statistics[statistic])
        yield self._accepted_per_pos()
        yield from self._registry.collect()

    def _accepted_per_pos(self) -> Metric:
        """Drafts that became tokens, by their place among those of a step, from 0 on; empty without speculation."""
        name, labels = "vllm:spec_decode_num_accepted_tokens_per_pos", [*self._labels, "position"]
        family = CounterMetricFamily(name, "Accepted drafts by place", labels=labels)
        for place in itertools.count():
            accepted = self._statistics.get(f"num_accepted_tokens_pos_{place}")
            if accepted is None:
                return family
            family.add_metric([*self._labels.values(), str(place)], accepted)

    @property
    def _num_blocks(self) -> int:
        """Pages of all pools, without the null block that each has."""
        return self._statistics["num_blocks"] - self._statistics.get("data_parallel_size", 1)

    def _labelled(self, family: Metric, value: float) -> Metric:
        family.add_metric([*self._labels.values()], value)
        return family


def metrics_router(llm: AsyncLLM, metrics: ServerMetrics) -> APIRouter:
    """The route `/metrics`."""
    router = APIRouter()

    @router.get("/metrics", response_class=Response, include_in_schema=False)
    async def get_metrics() -> Response:
        # Never OpenMetrics, whoever asks for it: there prometheus-client writes `vllm_` where the names have a colon.
        content = metrics.render(await llm.get_statistics())
        return Response(content, headers={"Content-Type": TEXT_FORMAT})

    return router


def _figures(answer: AnswerRecord) -> Iterator[tuple[str, float]]:
    """What each histogram is told of a request; times that it has not reached are left out."""
    request = answer.request
    arrival, scheduled, first = request.arrival_time, request.first_scheduled_time, request.first_token_time
    last = answer.last_token_time
    yield "vllm:e2e_request_latency_seconds", answer.ended - arrival
    yield "vllm:request_prompt_tokens", answer.num_prompt_tokens
    if request.pooling is None:
        yield "vllm:request_generation_tokens", answer.num_output_tokens
    if request.pooling is None and request.params.max_tokens is not None:
        yield "vllm:request_params_max_tokens", request.params.max_tokens
    if scheduled is not None:
        yield "vllm:request_queue_time_seconds", scheduled - arrival
    if first is not None:
        yield "vllm:time_to_first_token_seconds", first - arrival
    if scheduled is not None and first is not None:
        yield "vllm:request_prefill_time_seconds", first - scheduled
    if first is not None and last is not None:
        yield "vllm:request_decode_time_seconds", max(0.0, last - first)
        if answer.num_output_tokens > 1:
            mean = max(0.0, last - first) / (answer.num_output_tokens - 1)
            yield "vllm:request_time_per_output_token_seconds", mean
    if scheduled is not None and last is not None:
        yield "vllm:request_inference_time_seconds", last - scheduled


def _one_two_five(most: int) -> list[int]:
    """1, 2, 5, 10, 20, … up to `most`."""
    steps = (digit * 10**exponent for exponent in range(len(str(most))) for digit in (1, 2, 5))
    return [step for step in steps if step <= most]
