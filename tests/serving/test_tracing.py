"""Spans in OpenTelemetry's in-memory exporter, and what is said where it is not installed."""

import gzip
import http.server
import sys
import threading
import time

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mindspore_paged import SamplingParams
from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.observed_llm import ObservedLLM
from mindspore_paged.serving.request_record import RecordRequests, RequestRecord
from mindspore_paged.serving.tracing import ENDPOINT_VARIABLES, Tracing, end_tracing, tracer_provider
from tests.serving.stepped_llm import SteppedLLM

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def client(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app, stepped = FastAPI(), SteppedLLM(poison=13)
    llm = ObservedLLM(stepped, lambda answer: None)

    @app.post("/v1/answers/{token}")
    async def answer(token: int):
        request = stepped.engine.make_request([token] * 5, SamplingParams(max_tokens=3, temperature=0.5, seed=1))
        return [update.finish_reason async for update in llm.generate(request)]

    @app.get("/health")
    async def health():
        return "well"

    return TestClient(RecordRequests(app, [Tracing(provider, "tiny").write]))


def test_an_answer_and_its_phases_stand_below_the_request(client, exporter):
    client.post("/v1/answers/7", headers={"X-Request-Id": "mine"})
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["queue", "prefill", "decode", "llm_request", "POST /v1/answers/{token}"]
    server, answer = spans["POST /v1/answers/{token}"], spans["llm_request"]
    assert server.kind is SpanKind.SERVER
    assert server.parent is None
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "url.path": "/v1/answers/7",
        "http.route": "/v1/answers/{token}",
        "http.response.status_code": 200,
        "http.request.header.x-request-id": ("mine",),
    }
    assert answer.parent.span_id == server.context.span_id
    assert dict(answer.attributes) == {
        "gen_ai.request.model": "tiny",
        "gen_ai.request.choice.count": 1,
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("length",),
    }
    moments = [server.start_time]
    for name in ("queue", "prefill", "decode"):
        assert spans[name].parent.span_id == answer.context.span_id
        moments += [spans[name].start_time, spans[name].end_time]
    assert moments == sorted(moments)
    assert answer.end_time <= server.end_time


def test_the_clients_trace_goes_on(client, exporter):
    client.post("/v1/answers/7", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    server = exporter.get_finished_spans()[-1]
    assert format(server.context.trace_id, "032x") == TRACE
    assert format(server.parent.span_id, "016x") == SPAN


@pytest.mark.parametrize("damaged", ["", "00-xyz-1-01", f"00-{TRACE}", f"00-{'0' * 32}-{SPAN}-01", "9" * 5000])
def test_a_damaged_trace_begins_a_new_one(client, exporter, damaged):
    assert client.post("/v1/answers/7", headers={"traceparent": damaged}).status_code == 200
    assert exporter.get_finished_spans()[-1].parent is None


def test_a_client_that_is_not_traced_is_not(client, exporter):
    client.post("/v1/answers/7", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert exporter.get_finished_spans() == ()


def test_what_failed_says_so(client, exporter):
    client.post("/v1/answers/13")
    (answer,) = (span for span in exporter.get_finished_spans() if span.name == "llm_request")
    assert answer.status.status_code is StatusCode.ERROR
    assert answer.attributes["gen_ai.response.finish_reasons"] == ("error",)


def test_probes_are_not_traced(client, exporter):
    client.get("/health")
    assert exporter.get_finished_spans() == ()


@pytest.fixture
def unconfigured(monkeypatch):
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_an_endpoint_nothing_is_traced(unconfigured):
    unconfigured.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracer_provider(None) is None


@pytest.mark.parametrize("by", ["option", *ENDPOINT_VARIABLES])
def test_an_endpoint_without_the_extra_is_refused_in_one_line(unconfigured, by):
    unconfigured.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    if by != "option":
        unconfigured.setenv(by, "http://127.0.0.1:4318")
    with pytest.raises(ConfigError, match=r"pip install 'mindspore_paged\[tracing\]'"):
        tracer_provider("http://127.0.0.1:4318/v1/traces" if by == "option" else None)


@pytest.fixture
def collector():
    """The port of a collector, and what it was sent: (path, spans by name)."""
    received = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
            for resource in sent.resource_spans:
                service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
                names = [span.name for scope in resource.scope_spans for span in scope.spans]
                received.append((self.path, service, names))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, received
        server.shutdown()


@pytest.mark.parametrize("by", ["option", *ENDPOINT_VARIABLES])
def test_spans_reach_a_collector_before_the_server_ends(unconfigured, collector, by):
    port, received = collector
    base, traces = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v1/traces"
    if by != "option":
        unconfigured.setenv(by, base if by == "OTEL_EXPORTER_OTLP_ENDPOINT" else traces)
    provider = tracer_provider(traces if by == "option" else None)
    Tracing(provider, "tiny").write(RequestRecord("mine", "GET", "/v1/models", {}))
    end_tracing(provider)
    assert received == [("/v1/traces", "mindspore_paged", ["GET"])]


def test_a_collector_that_is_not_there_holds_nobody_up(unconfigured):
    unconfigured.setattr("mindspore_paged.serving.tracing.FAREWELL_SECONDS", 0.2)
    provider = tracer_provider("http://127.0.0.1:9/v1/traces")
    tracing = Tracing(provider, "tiny")
    started = time.monotonic()
    for number in range(600):
        tracing.write(RequestRecord(str(number), "GET", "/v1/models", {}))
    end_tracing(provider)
    assert time.monotonic() - started < 5
