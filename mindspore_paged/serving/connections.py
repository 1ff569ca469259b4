"""TCP connections: where the server listens, and how long a client may keep it waiting.

A client that vanished without a word, or takes nothing of what it is sent, is let go by the kernel: keep-alive probes
for connections where nothing is under way, TCP_USER_TIMEOUT for those where something is. One that sends nothing, or
half a header, is let go here.
"""

import asyncio
import socket
from contextlib import suppress

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.errors import bad_request, body_of

BACKLOG = 2048
_PROBES = 3


def listen(host: str, port: int, timeout: float) -> socket.socket:
    """A socket that clients can connect to from now on; port 0 takes any that is free.

    timeout: seconds after which a client is let go that does not answer, or takes nothing.
    Raises ConfigError where the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"server.host {host}, server.port {port}: cannot listen there: {reason}; give another port or host"
        ) from None
    # Accepted connections have these from the listener.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # asyncio sets this one only where a socket says its protocol, as these do not: bodies waited 40 ms behind headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seconds = max(1, round(timeout / (1 + _PROBES)))
    for name, value in (
        ("TCP_KEEPIDLE", seconds),
        ("TCP_KEEPINTVL", seconds),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", round(1000 * timeout)),
    ):
        with suppress(AttributeError, OSError):  # where the system has no such thing
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listener


def address_of(listener: socket.socket, scheme: str) -> str:
    """Where clients find it, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def bounded_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with a bound on the seconds that a connection may stand without a whole header."""

    class BoundedProtocol(H11Protocol):
        """Closes connections on which no request begins; uvicorn itself sees to those that had one, and are idle."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._look_again()

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP in the form of all errors."""
            body = body_of(bad_request(msg), "/")
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
            self.transport.close()

        def _look_again(self) -> None:
            self._timer = self.loop.call_later(seconds, self._look, self.cycle)

        def _look(self, last: object) -> None:
            waits = self.cycle is None or self.cycle.response_complete
            if waits and self.cycle is last:
                self.transport.abort()
            else:
                self._look_again()

    return BoundedProtocol
