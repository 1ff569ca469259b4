"""Answers that take long: server-sent events, and the watch for clients that go before the end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mindspore_paged.errors import PagedError
from mindspore_paged.serving.errors import CLIENT_GONE, ApiError, ErrorResponse, as_api_error

DONE = "data: [DONE]\n\n"
Answer = TypeVar("Answer")


async def unless_gone(http: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What `work` gives; where the client goes first, the work is cancelled and ApiError is raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(http.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(CLIENT_GONE, "the client did not wait for the answer")
    finally:
        await _end(task, gone)


def json_answer(answer: BaseModel, headers: dict[str, str]) -> Response:
    """A whole answer."""
    return Response(answer.model_dump_json(), headers=headers, media_type="application/json")


async def event_stream(
    http: Request,
    events: AsyncGenerator[str],
    headers: dict[str, str],
    error_event: Callable[[ApiError], str] | None = None,
    last: str = DONE,
) -> Response:
    """The answer that streams `events`, begun when the first one is there: what fails before it has a status.

    error_event: the event that tells of an error in mid-stream; None writes OpenAI's. last: comes after all, and after
    an error, too.
    """
    first = await unless_gone(http, anext(events))
    return EventStream(_whole(first, events, error_event or _error_event, last), headers)


async def _whole(
    first: str, events: AsyncGenerator[str], error_event: Callable[[ApiError], str], last: str
) -> AsyncGenerator[str]:
    async with aclosing(events):
        yield first
        try:
            async for event in events:
                yield event
        except (ApiError, PagedError) as error:
            yield error_event(as_api_error(error))
    if last:
        yield last


def _error_event(error: ApiError) -> str:
    return f"data: {ErrorResponse(error=error.detail_of_body).model_dump_json()}\n\n"


class TextEvent:
    """Events that differ in one text alone: what stands around it is made once.

    make: gives the event with this text in it, as JSON.
    """

    def __init__(self, make: Callable[[str], str]):
        mark = uuid4().hex
        self._before, _, self._after = make(mark).partition(f'"{mark}"')

    def of(self, text: str) -> str:
        """The event with this text."""
        return f"{self._before}{to_json(text).decode()}{self._after}"


class EventStream(Response):
    """Sends events as they come; where the client goes, or cannot be sent to, the generator is closed at once."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str], headers: dict[str, str] | None = None):
        self.status_code = 200
        self.background = None
        self._events = events
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the ASGI application that answers."""
        task, gone = asyncio.ensure_future(self._send_all(send)), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            await _end(task, gone)
            await self._events.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Callable[[], Awaitable[dict]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
