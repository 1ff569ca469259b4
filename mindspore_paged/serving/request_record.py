"""What is known of each HTTP request when it ends, and the middleware that notes it down and names the request."""

import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any
from uuid import uuid4

from mindspore_paged.serving.answer_record import AnswerRecord
from mindspore_paged.serving.errors import CLIENT_GONE

REQUEST_ID_HEADER = "X-Request-Id"

_SANE_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_CURRENT: ContextVar["RequestRecord | None"] = ContextVar("request_record", default=None)


@dataclass
class RequestRecord:
    """One HTTP request; the middleware and whoever answers it fill it in.

    request_id: the client's, if it sent a sane one. path: without the query, which may hold what nobody should log.
    route: the path's pattern, None where no route has it. trace_headers: `traceparent` and `tracestate`, as they came.
    started: seconds of perf_counter(); started_at: of the clock, since 1970. status: CLIENT_GONE without an answer.
    answers: what the engine did for it, in the order in which it began.
    """

    request_id: str
    method: str
    path: str
    trace_headers: dict[str, str]
    started: float = field(default_factory=perf_counter)
    started_at: float = field(default_factory=time)
    route: str | None = None
    status: int = CLIENT_GONE
    seconds: float = 0.0
    answers: list[AnswerRecord] = field(default_factory=list)


def current_record() -> RequestRecord | None:
    """The record of the HTTP request that is being answered here; None outside of one."""
    return _CURRENT.get()


class RecordRequests:
    """ASGI middleware: gives each request a record and an id, and each response the id.

    sinks: called with the record when the last byte of the answer was sent, or the client has gone.
    """

    def __init__(self, app: Callable, sinks: Iterable[Callable[[RequestRecord], None]]):
        self._app = app
        self._sinks = tuple(sinks)

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Answer by the app; see the ASGI specification, https://asgi.readthedocs.io."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _record_of(scope)

        async def send_named(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                name = REQUEST_ID_HEADER.lower().encode()
                headers = [header for header in message.get("headers", ()) if header[0].lower() != name]
                message = {**message, "headers": [*headers, (name, record.request_id.encode())]}
            await send(message)

        token = _CURRENT.set(record)
        try:
            await self._app(scope, receive, send_named)
        except Exception:
            record.status = 500 if record.status == CLIENT_GONE else record.status
            raise
        finally:
            _CURRENT.reset(token)
            record.seconds = perf_counter() - record.started
            record.route = getattr(scope.get("route"), "path", None)
            for sink in self._sinks:
                sink(record)


def _record_of(scope: dict[str, Any]) -> RequestRecord:
    def values(name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in scope["headers"] if key == name.lower().encode()]

    ids = values(REQUEST_ID_HEADER)
    is_sane = len(ids) == 1 and _SANE_REQUEST_ID.fullmatch(ids[0])
    trace_headers = {name: ",".join(found) for name in ("traceparent", "tracestate") if (found := values(name))}
    return RequestRecord(ids[0] if is_sane else uuid4().hex, scope["method"], scope["path"], trace_headers)
