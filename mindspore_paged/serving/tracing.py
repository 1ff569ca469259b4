"""OpenTelemetry: a span for each HTTP request, with one below it for each answer of the engine and its phases.

Names of attributes are those of OpenTelemetry's semantic conventions, https://opentelemetry.io/docs/specs/semconv/.
"""

import os
from collections.abc import Callable, Iterator
from threading import Thread
from typing import TYPE_CHECKING

from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.answer_record import AnswerRecord
from mindspore_paged.serving.request_record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
UNTRACED = ("/health", "/ready", "/metrics")
"""What machines ask every few seconds."""

SERVICE_NAME = "mindspore_paged"
FAREWELL_SECONDS = 3.0


class Tracing:
    """Makes spans of requests that have ended, and hands them to `provider`.

    model_name: as clients know it.
    """

    def __init__(self, provider: "TracerProvider", model_name: str):
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("mindspore_paged.serving")
        self._propagator = TraceContextTextMapPropagator()
        self._model_name = model_name

    def write(self, record: RequestRecord) -> None:
        """Make the spans of an HTTP request, below the client's span if it named one by W3C's `traceparent`."""
        if record.path in UNTRACED:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        def on_clock(moment: float) -> int:
            """Nanoseconds since 1970 of a moment of perf_counter()."""
            return int((record.started_at + moment - record.started) * 1e9)

        span = self._tracer.start_span(
            f"{record.method} {record.route}" if record.route else record.method,
            context=self._propagator.extract(record.trace_headers),
            kind=SpanKind.SERVER,
            start_time=on_clock(record.started),
            attributes={
                "http.request.method": record.method,
                "url.path": record.path,
                "http.response.status_code": record.status,
                "http.request.header.x-request-id": (record.request_id,),
            }
            | ({"http.route": record.route} if record.route else {}),
        )
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        within = set_span_in_context(span)
        for answer in record.answers:
            self._write_answer(answer, within, on_clock)
        span.end(on_clock(record.started + record.seconds))

    def _write_answer(self, answer: AnswerRecord, within: object, on_clock: Callable[[float], int]) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        request, params = answer.request, answer.request.params
        attributes = {
            "gen_ai.request.model": self._model_name,
            "gen_ai.request.choice.count": params.n,
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.usage.input_tokens": answer.num_prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": answer.num_cached_tokens,
            "gen_ai.usage.output_tokens": answer.num_output_tokens,
            "gen_ai.response.finish_reasons": tuple(answer.finish_reasons),
        }
        span = self._tracer.start_span(
            "llm_request",
            context=within,
            start_time=on_clock(request.arrival_time),
            attributes={name: value for name, value in attributes.items() if value is not None},
        )
        if "error" in answer.finish_reasons:
            span.set_status(Status(StatusCode.ERROR, request.error))
        below = set_span_in_context(span)
        for name, start, end in _phases(answer):
            self._tracer.start_span(name, context=below, start_time=on_clock(start)).end(on_clock(end))
        span.end(on_clock(answer.ended if answer.ended is not None else request.arrival_time))


def tracer_provider(endpoint: str | None) -> "TracerProvider | None":
    """What sends spans to a collector, by OTLP over HTTP and in a thread of its own; None where no endpoint is known.

    endpoint: the URL that takes traces; None asks the variables of OpenTelemetry's SDK, all of which it reads.
    `end_tracing` sends what is left. Raises ConfigError if the extra `tracing` is not installed.
    """
    if endpoint is None and not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            "an endpoint for traces is configured, but OpenTelemetry is not installed: "
            "pip install 'mindspore_paged[tracing]'"
        ) from None
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE_NAME})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


def end_tracing(provider: "TracerProvider") -> None:
    """Send the spans that are left, for FAREWELL_SECONDS at most: a collector may be gone for good."""
    thread = Thread(target=provider.shutdown, name="end of tracing", daemon=True)
    thread.start()
    thread.join(FAREWELL_SECONDS)


def _phases(answer: AnswerRecord) -> Iterator[tuple[str, float, float]]:
    """The name, begin and end of what an answer went through, as far as it came."""
    request = answer.request
    moments = (request.arrival_time, request.first_scheduled_time, request.first_token_time, answer.last_token_time)
    for name, start, end in zip(("queue", "prefill", "decode"), moments, moments[1:], strict=False):
        if start is not None and end is not None:
            yield name, start, max(start, end)
