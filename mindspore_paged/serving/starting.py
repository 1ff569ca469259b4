"""What clients are told while the model is loaded: 503, and when to try again."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from mindspore_paged.config import ServerSection
from mindspore_paged.serving.connections import BACKLOG, bounded_protocol
from mindspore_paged.serving.errors import error_response, try_later

LARGEST_HEADER = 2**16
"""Bytes of a request's line and headers together."""


def configuration(app: Any, options: ServerSection) -> uvicorn.Config:
    """How uvicorn runs `app`."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=bounded_protocol(options.connection_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # whoever sends what is no HTTP must not fill a log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=LARGEST_HEADER,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
    )


@contextmanager
def answered_while_starting(listener: socket.socket, options: ServerSection) -> Iterator[None]:
    """Answer in this block whoever connects to `listener` already, in another thread."""
    server = uvicorn.Server(configuration(_refuse, options))
    own = listener.dup()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[own])), name="starting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = try_later(503, "the server starts: the model is being loaded", "starting")
    await error_response(error, scope["path"])(scope, receive, send)
