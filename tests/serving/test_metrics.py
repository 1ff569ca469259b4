"""Metrics as Prometheus's own parser reads them, against what the requests did."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from mindspore_paged import SamplingParams
from mindspore_paged.engine.scheduling.ngram_proposer import NgramProposer
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.errors import StepError
from mindspore_paged.serving.metrics import ServerMetrics, metrics_router
from mindspore_paged.serving.observed_llm import ObservedLLM
from tests.engine.paged_oracle import expected_tokens
from tests.serving.stepped_llm import SteppedLLM

DASHBOARD = Path(__file__).parents[2] / "scripts" / "grafana" / "serving.json"


class Server:
    """A /metrics route beside an engine that is used without HTTP."""

    def __init__(self, **options):
        self.metrics = ServerMetrics('tiny "one"', max_model_len=40)
        self.stepped = SteppedLLM(**options)
        self.llm = ObservedLLM(self.stepped, self.metrics.count)
        app = FastAPI()
        app.include_router(metrics_router(self.llm, self.metrics))
        self.client = TestClient(app)

    def make_request(self, prompt, **params):
        return self.stepped.engine.make_request(prompt, SamplingParams(**params))

    def run(self, *requests):
        async def read_all():
            await asyncio.gather(*(self.read(request) for request in requests))

        asyncio.run(read_all())

    async def read(self, request):
        return [update async for update in self.llm.generate(request)]

    def samples(self, accept="text/plain"):
        response = self.client.get("/metrics", headers={"Accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
                if sample.name.startswith("vllm:"):
                    assert (sample.labels["model_name"], sample.labels["engine"]) == ('tiny "one"', "0")
                found[(sample.name, *labels.values())] = sample.value
        return found


@pytest.fixture
def server():
    return Server()


def test_every_metric_is_there_before_any_request(server):
    found = server.samples()
    assert found[("vllm:kv_cache_usage_perc",)] == 0
    assert found[("vllm:request_success_total", "stop")] == 0
    assert found[("process_open_fds",)] > 0
    for name in (
        *("num_requests_running", "num_requests_waiting", "prefix_cache_queries_total", "prefix_cache_hits_total"),
        *("num_preemptions_total", "prompt_tokens_total", "generation_tokens_total"),
        *("time_to_first_token_seconds_count", "inter_token_latency_seconds_count"),
        *("e2e_request_latency_seconds_count", "request_queue_time_seconds_count"),
        *("request_prefill_time_seconds_count", "request_decode_time_seconds_count"),
    ):
        assert found[(f"vllm:{name}",)] == 0, name


def test_tokens_and_ends_are_those_of_the_requests(server):
    prompts = [list(range(length)) for length in (9, 17, 17)]
    server.run(*(server.make_request(prompt, max_tokens=5) for prompt in prompts))
    found = server.samples()
    assert found[("vllm:prompt_tokens_total",)] == 9 + 17 + 17
    assert found[("vllm:generation_tokens_total",)] == 15
    assert found[("vllm:request_success_total", "length")] == 3
    assert found[("vllm:time_to_first_token_seconds_count",)] == 3
    assert found[("vllm:inter_token_latency_seconds_count",)] == 3 * 4
    assert found[("vllm:request_prompt_tokens_sum",)] == 43
    assert found[("vllm:request_generation_tokens_bucket", "5.0")] == 3
    assert found[("vllm:request_generation_tokens_bucket", "2.0")] == 0
    for phase in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time"):
        assert found[(f"vllm:{phase}_seconds_count",)] == 3, phase
    whole = found[("vllm:e2e_request_latency_seconds_sum",)]
    parts = [found[(f"vllm:request_{part}_time_seconds_sum",)] for part in ("queue", "prefill", "decode")]
    assert 0 < sum(parts) <= whole


def test_hits_of_the_prefix_cache_are_counted_as_tokens(server):
    server.run(server.make_request(list(range(17)), max_tokens=1))
    server.run(server.make_request(list(range(17)), max_tokens=1))
    found = server.samples()
    assert found[("vllm:prefix_cache_queries_total",)] == 34
    assert found[("vllm:prefix_cache_hits_total",)] == 16


def test_what_runs_and_waits_now(server):
    server.stepped.engine.scheduler.cache.table.acquire_row()  # leaves seven
    for number in range(9):
        server.stepped.engine.add_request(server.make_request([number], max_tokens=9))
    server.stepped.engine.step()
    found = server.samples()
    assert found[("vllm:num_requests_running",)] == 7
    assert found[("vllm:num_requests_waiting",)] == 2
    assert found[("vllm:kv_cache_usage_perc",)] == pytest.approx(7 / 63)


def test_a_reader_that_leaves_counts_as_an_abort_and_texts_that_ended_as_what_they_are(server):
    async def leave():
        request = server.make_request([1, 2], max_tokens=30, n=2, temperature=1.0, seed=0)
        updates = server.llm.generate(request)
        async for _ in updates:
            break
        await updates.aclose()
        assert request.is_finished

    asyncio.run(leave())
    found = server.samples()
    assert found[("vllm:request_success_total", "abort")] == 2
    assert found[("vllm:request_success_total", "length")] == 0


def test_a_request_that_fails_alone_counts_as_an_error():
    server = Server(poison=13)
    server.run(server.make_request([13], max_tokens=3))
    assert server.samples()[("vllm:request_success_total", "error")] == 1


def test_an_engine_that_fails_counts_as_an_error_too(server, monkeypatch):
    async def failing(request):
        raise StepError("gone")
        yield

    monkeypatch.setattr(server.stepped, "generate", failing)
    with pytest.raises(StepError):
        server.run(server.make_request([1], max_tokens=3))
    found = server.samples()
    assert found[("vllm:request_success_total", "error")] == 1
    assert found[("vllm:time_to_first_token_seconds_count",)] == 0


def test_watched_streams_are_the_engines_own(server):
    async def read():
        updates = await server.read(server.make_request([3, 4], max_tokens=6))
        return [token for update in updates for token in update.token_ids]

    assert asyncio.run(read()) == expected_tokens([3, 4], 6)


@pytest.mark.parametrize("version", ["", ";escaping=underscores", ";escaping=allow-utf-8"])
def test_names_keep_their_colon_whatever_version_of_prometheus_asks(server, version):
    accept = f"application/openmetrics-text;version=1.0.0{version},text/plain;version=0.0.4;q=0.5"
    assert ("vllm:prompt_tokens_total",) in server.samples(accept)


def test_the_dashboard_shows_only_what_is_exported(server):
    dashboard = json.loads(DASHBOARD.read_text())
    exported = {name for name, *_ in server.samples()}
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    expressions += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    assert len(expressions) > 10
    used = {name for text in expressions for name in re.findall(r"\b(?:vllm:|process_)[a-z0-9_]+", text)}
    assert used <= exported
    assert len(used) > 12


def test_drafts_are_counted_by_their_place():
    server = Server(speculation=Speculation(NgramProposer(1, 2), 3), max_model_len=40)
    assert not [name for name in Server().samples() if name[0].startswith("vllm:spec_decode_num_accepted_tokens_per")]
    server.stepped.engine.scheduler.speculation.observe(3, 2, 3)
    server.stepped.engine.scheduler.speculation.observe(2, 1, 2)
    found = server.samples()
    per_position = [found[("vllm:spec_decode_num_accepted_tokens_per_pos_total", str(place))] for place in range(3)]
    assert per_position == [2, 1, 0]
