"""An engine in another process, as the process sees it that routes requests."""

from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

from mindspore_paged.engine.replicas.messages import Add, Call, Failed, Reply, Stepped
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import ReplicaError

CLOSE_SECONDS = 30.0
"""How long a replica may take to end its last step when it is sent home."""

LAST_WORD_SECONDS = 1.0
"""How long the reader may take to find why a replica has ended, once nothing can be sent to it."""

Inbox = SimpleQueue  # of (replica, Stepped), or (replica, None) when a replica has ended


class RemoteEngine:
    """The router's end of the connection to replica `replica`; everything but the constructor raises ReplicaError.

    What its steps bring goes to `inbox`, which all replicas share. A thread reads, so that a replica never waits for
    a router that is in a step of its own, and the two never wait for each other with full buffers.
    """

    def __init__(self, replica: int, connection: Connection, inbox: Inbox):
        self.replica = replica
        self._connection = connection
        self._inbox = inbox
        self._replies: SimpleQueue[Reply | None] = SimpleQueue()
        self._num_calls = 0
        self._gone: str | None = None
        self._reader = Thread(target=self._read, name=f"replica {replica}", daemon=True)
        self._reader.start()

    def add(self, request: Request) -> None:
        """Hand over a request of `LLMEngine.make_request`."""
        self._send(
            Add(
                request.request_id,
                list(request.prompt_token_ids),
                request.asked,
                request.priority,
                request.request_class,
                request.cache_salt,
                request.pooling,
                None if request.adapter is None else request.adapter.name,
                perf_counter() - request.arrival_time,
            )
        )

    def ask(self, function: Callable[..., Any], *arguments) -> int:
        """Have `function(engine, *arguments)` done there, between two steps; `answer` of the number returned waits.

        function: one that pickle knows by its name. All that the replica did before is in the inbox before its answer.
        """
        self._num_calls += 1
        self._send(Call(self._num_calls, function, arguments))
        return self._num_calls

    def answer(self, number: int) -> Any:
        """What call `number` gave, the last one asked for; an error of its own is raised again here."""
        reply = self._next_reply()
        while reply.number < number:  # a call that the user interrupted
            reply = self._next_reply()
        if reply.error is not None:
            raise type(reply.error)(f"replica {self.replica}: {reply.error}")
        return reply.result

    def raise_gone(self) -> None:
        """Raise ReplicaError if the replica has ended."""
        if self._gone is not None:
            raise ReplicaError(self._gone)

    def close(self) -> None:
        """Send the replica home and wait until it has ended its step; never raises."""
        with suppress(OSError):  # it may be gone already
            self._connection.send(None)
        self._reader.join(CLOSE_SECONDS)
        if not self._reader.is_alive():  # its file descriptor may otherwise become another file's under its hands
            self._connection.close()

    def _next_reply(self) -> Reply:
        reply = self._replies.get()
        if reply is None:
            raise ReplicaError(self._gone)
        return reply

    def _send(self, message: Add | Call) -> None:
        self.raise_gone()
        try:
            self._connection.send(message)
        except OSError:
            self._reader.join(LAST_WORD_SECONDS)
            raise ReplicaError(self._gone or _ended(self.replica)) from None

    def _read(self) -> None:
        gone = _ended(self.replica)
        try:
            while True:
                message = self._connection.recv()
                match message:
                    case Reply():
                        self._replies.put(message)
                    case Stepped():
                        self._inbox.put((self.replica, message))
                    case Failed():
                        gone = f"replica {self.replica} failed: {message.reason}"
        except (EOFError, OSError):
            pass  # the end, whoever brought it about
        finally:
            self._gone = gone  # before whoever waits is woken
            self._replies.put(None)
            self._inbox.put((self.replica, None))


def _ended(replica: int) -> str:
    return f"replica {replica} is gone: its connection ended"
