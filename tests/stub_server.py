"""A server of OpenAI's API that computes nothing: its delays, and what it does wrong, are the test's."""

import asyncio
import json
import threading
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class StubServer:
    """Answers `max_tokens` tokens, one a chunk; listens while it is used as a context.

    first, between: seconds before the first token and before each later one. requests: the bodies that came, and their
    headers. most_at_once: requests under way. short: tokens that each answer lacks. does: a part of a message, and what
    the server does where the last message has it. port: 0 takes any.
    """

    first: float = 0.0
    between: float = 0.0
    short: int = 0
    does: dict[str, str] = field(default_factory=dict)
    port: int = 0
    requests: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    most_at_once: int = 0
    _under_way: int = 0

    def __enter__(self) -> "StubServer":
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._models)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _models(self, _) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "stub", "object": "model"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return await self._stream(request, body)
        finally:
            self._under_way -= 1

    async def _stream(self, request: web.Request, body: dict) -> web.StreamResponse:
        text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        fault = next((what for part, what in self.does.items() if part in text), None)
        if fault == "refuse":
            error = {"message": "the queue is full", "type": "rate_limit_error", "param": None, "code": None}
            return web.json_response({"error": error}, status=429)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if "messages" in body:
            await self._send(response, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        count = body["max_tokens"] - self.short
        for place in range(count):
            await asyncio.sleep(self.between if place else self.first)
            if fault == "break" and place:
                request.transport.close()
                return response
            if fault == "fail" and place:
                await self._send(response, {"error": {"message": "the engine failed", "type": "server_error"}})
            piece = {"text": " a"} if "prompt" in body else {"delta": {"content": " a"}}
            await self._send(response, {"choices": [{"index": 0, **piece}], "usage": None})
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": count}
        usage["prompt_tokens_details"] = {"cached_tokens": 3}
        await self._send(response, {"choices": [], "usage": None if fault == "no usage" else usage})
        if fault != "no end":
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, event: dict) -> None:
        """An event in two halves, as networks deliver them."""
        data = b": a comment\n\ndata: " + json.dumps(event).encode() + b"\r\n\r\n"
        await response.write(data[:20])
        await response.write(data[20:])
