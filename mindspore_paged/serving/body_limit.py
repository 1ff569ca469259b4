"""How much of a request's body is taken, and how long it may take to come."""

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindspore_paged.serving.errors import ApiError, error_response

DISCARDED_BODIES = 4
DISCARD_SECONDS = 1.0
"""Of a body that is too large: what is taken and thrown away, in times the limit, and the wait for its next piece."""


class BodyLimit:
    """Refuses bodies of more than `max_bytes` (413), and clients that stop in the middle of one (408).

    seconds: that the next piece of a body may take to come.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float):
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the ASGI application that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            if "expect" not in headers:  # a client that waits for a word before it sends has sent nothing
                await self._discard(receive)
            await error_response(self._too_large(), scope["path"])(scope, receive, send)
            return
        await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        num_bytes, is_complete = 0, False

        async def counted() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:
                return await receive()
            try:
                with anyio.fail_after(self._seconds):  # asyncio.wait_for may swallow a cancellation before 3.12
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the body did not come", code="request_timeout", headers=_CLOSE) from None
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                is_complete = not message.get("more_body", False)
                if num_bytes > self._max_bytes:
                    if not is_complete:
                        await self._discard(receive)
                    raise self._too_large()
            return message

        return counted

    async def _discard(self, receive: Receive) -> None:
        """Take what still comes, up to a bound: a client that is sending does not hear an answer."""
        num_bytes, more = 0, True
        while more and num_bytes < DISCARDED_BODIES * self._max_bytes:
            try:
                with anyio.fail_after(DISCARD_SECONDS):
                    message = await receive()
            except TimeoutError:
                return
            num_bytes += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _too_large(self) -> ApiError:
        message = f"the body is larger than {self._max_bytes} bytes"
        return ApiError(413, message, code="request_too_large", headers=_CLOSE)


_CLOSE = {"Connection": "close"}
