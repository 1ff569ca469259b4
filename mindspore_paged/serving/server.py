"""The server as a process: it starts, serves until a signal or the engine's end, and drains."""

import asyncio
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import uvicorn

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.config import ServerSection
from mindspore_paged.launch import supervision
from mindspore_paged.launch.interruption import ends_by_itself
from mindspore_paged.llm import LLM
from mindspore_paged.serving.access_log import AccessLog
from mindspore_paged.serving.app import create_app
from mindspore_paged.serving.connections import address_of
from mindspore_paged.serving.starting import configuration
from mindspore_paged.serving.tracing import end_tracing
from mindspore_paged.wording import one_line

EXIT_FAILED = 1
FAREWELL_SECONDS = 20.0
"""Beside the drain: for clients that read the last of their answers, and for MindSpore, which takes its time to end."""


def serve(
    llm: LLM,
    listener: socket.socket,
    options: ServerSection,
    api_keys: Sequence[bytes] = (),
    tracer_provider: Any = None,
) -> int:
    """Serve until a signal comes, then drain and return 0; 1, and one line on stderr, if the engine fails.

    listener: where clients connect. api_keys: digests, see `read_api_keys`. tracer_provider: shut down in the end.
    """
    with ExitStack() as stack:
        if tracer_provider is not None:
            stack.callback(end_tracing, tracer_provider)
        if options.access_log:
            stack.enter_context(closing(AccessLog(sys.stdout)))
        return asyncio.run(_serve(llm, listener, options, api_keys, tracer_provider))


async def _serve(
    llm: LLM, listener: socket.socket, options: ServerSection, api_keys: Sequence[bytes], tracer_provider: Any
) -> int:
    loop, asked_to_end = asyncio.get_running_loop(), asyncio.Event()
    engine = AsyncLLM(llm, max_buffered_updates=options.max_buffered_updates)
    app = create_app(engine, options, api_keys=api_keys, tracer_provider=tracer_provider)
    server = HttpServer(configuration(app, options))
    with ends_by_itself(lambda: loop.call_soon_threadsafe(asked_to_end.set), options.drain_seconds + FAREWELL_SECONDS):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        failing = asyncio.create_task(engine.wait_failed())
        asking = asyncio.create_task(asked_to_end.wait())
        service = app.state.service
        scheme = "http" if options.tls_certificate is None else "https"
        print(f"serving {service.model_names[0]} at {address_of(listener, scheme)}", flush=True)
        await asyncio.wait({serving, failing, asking}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done() and not failing.done():
            draining = asyncio.create_task(service.drain(options.drain_seconds))
            await asyncio.wait({draining, failing}, return_when=asyncio.FIRST_COMPLETED)
        reason = one_line(failing.result()) if failing.done() else None
        if reason is not None:
            print(f"error: the engine failed: {reason}", file=sys.stderr, flush=True)
            supervision.fail(f"the engine failed: {reason}", EXIT_FAILED)
        server.should_exit = True
        await serving
        for task in (failing, asking):
            task.cancel()
    llm.close()
    return 0 if reason is None else EXIT_FAILED


class HttpServer(uvicorn.Server):
    """uvicorn's server, which leaves signals to `launch.interruption`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
