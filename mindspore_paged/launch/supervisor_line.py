"""One worker's connection to the supervisor, kept by a thread that also runs while the main thread waits in a graph."""

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

from mindspore_paged.launch import interruption, states
from mindspore_paged.launch.messages import Lines, ProtocolError, encode
from mindspore_paged.launch.worker import Worker, start_limit

BEAT_SECONDS = 0.5
STDERR = 2
_RETRY_SECONDS = 0.1
_DELIVERY_SECONDS = 10.0


class _RefusedError(Exception):
    """The supervisor does not count this rank among its job's."""


class SupervisorLine:
    """Beats twice a second, carries messages both ways, and ends the process at the supervisor's word or its end."""

    def __init__(self, worker: Worker):
        self._worker = worker
        self._where = (0, states.STARTING)
        self._connection: socket.socket | None = None
        self._sending = threading.Lock()
        self._news = threading.Condition()
        self._found: dict[str, str] = {}
        self._error_heard = False
        self._failed = self._left = False
        self._signal: int | None = None

    def open(self) -> None:
        """Start the thread that connects and beats."""
        threading.Thread(target=self._keep, name="supervisor line", daemon=True).start()

    def drop(self) -> None:
        """Close this process's copy of the connection."""
        if self._connection is not None:
            self._connection.close()

    @property
    def step(self) -> int:
        """The step that was last reported."""
        return self._where[0]

    def report(self, step: int, state: str) -> None:
        """Take note of what this rank does; the next beat says it."""
        becomes_slow = states.is_slow(state) and state != self._where[1]
        self._where = (step, state)
        if becomes_slow and self._connection is not None:
            # At once, for the next beat may be minutes away: MindSpore's compiler lets no other thread run.
            self._send(step=step, state=state)

    def fail(self, message: str, exit_code: int) -> None:
        """Report an error, and wait until the supervisor has it."""
        if self._failed:
            return
        self._failed = True
        if self._wait(lambda: self._connection is not None, _DELIVERY_SECONDS):
            self._send(error=message, exit_code=exit_code)
            self._wait(lambda: self._error_heard, _DELIVERY_SECONDS)

    def pass_on(self, number: int) -> None:
        """Have the supervisor told of a signal, at the next beat: a handler of signals must not wait for a lock."""
        self._signal = number

    def say(self, words: str) -> None:
        """Tell the supervisor the last words of a script that is interrupted."""
        self._send(words=words)

    def ask_for_time(self, seconds: float) -> None:
        """Tell the supervisor how long the end of the job may take after a signal."""
        self._wait(lambda: self._connection is not None, start_limit())
        self._send(seconds=seconds)

    def leave(self, exiting: bool) -> None:
        """Say goodbye, unless this rank has failed; `exiting`: the interpreter is about to end."""
        if self._failed:
            return
        self._left = True
        if self._wait(lambda: self._connection is not None, _DELIVERY_SECONDS):
            self._send(goodbye=True, exiting=exiting)

    def join(self, ranks: Sequence[int]) -> None:
        """Say with which ranks this one computes in step."""
        self._wait(lambda: self._connection is not None, start_limit())
        self._send(group=list(ranks))

    def publish(self, name: str, value: str) -> None:
        """Put a value on the supervisor's board."""
        self._wait(lambda: self._connection is not None, start_limit())
        self._send(publish=name, value=value)

    def lookup(self, name: str, timeout: float) -> str:
        """A value from the supervisor's board."""
        deadline = time.monotonic() + timeout
        if self._wait(lambda: self._connection is not None, timeout):
            self._found.pop(name, None)
            self._send(lookup=name)
            if self._wait(lambda: name in self._found, deadline - time.monotonic()):
                return self._found[name]
        raise TimeoutError(f"no rank published {name!r} within {timeout:g} s")

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(condition, max(seconds, 0.0))

    def _send(self, **fields) -> None:
        with self._sending, contextlib.suppress(OSError):  # a broken connection shows when it is read
            self._connection.sendall(encode(**fields))

    def _keep(self) -> None:
        lines = self._connect()
        readable = select.poll()
        readable.register(self._connection, select.POLLIN)
        next_beat = time.monotonic()
        while True:
            if time.monotonic() >= next_beat:
                step, state = self._where
                self._send(step=step, state=state)
                next_beat = time.monotonic() + BEAT_SECONDS
            if self._signal is not None:
                self._send(interrupt=self._signal)
                self._signal = None
            if readable.poll(1000 * BEAT_SECONDS / 2):
                data = self._receive()
                if not data and self._left:
                    return
                if not data:
                    self._end("error: the job's supervisor has ended", 1)
                for message in lines.feed(data):
                    self._hear(message)

    def _connect(self) -> Lines:
        worker = self._worker
        deadline = time.monotonic() + start_limit()
        while time.monotonic() < deadline:
            try:
                connection = socket.create_connection((worker.host, worker.port), timeout=_DELIVERY_SECONDS)
                lines = _welcomed(connection, worker)
                with self._news:
                    self._connection = connection
                    self._news.notify_all()
                return lines
            except (_RefusedError, ProtocolError) as error:
                self._end(f"error: the supervisor at {worker.host}:{worker.port} refuses this worker: {error}", 1)
            except OSError:  # not there yet
                if self._signal is not None:
                    self._end(interruption.line(self._signal), interruption.exit_code(self._signal))
                time.sleep(_RETRY_SECONDS)
        self._end(f"error: no supervisor answers at {worker.host}:{worker.port} within {start_limit():g} s", 1)

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(1 << 16)
        except OSError:
            return b""

    def _hear(self, message: dict) -> None:
        if "end" in message:
            # A rank that failed has printed its own error, at greater length.
            self._end(None if self._failed else message["end"], message["exit_code"])
        if "interrupt" in message:
            interruption.interrupt(message["interrupt"])
        with self._news:
            if "found" in message:
                self._found[message["found"]] = message["value"]
            self._error_heard |= "heard" in message
            self._news.notify_all()

    def _end(self, text: str | None, exit_code: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        if text is not None:
            os.write(STDERR, text.encode() + b"\n")
        os._exit(exit_code)


def _welcomed(connection: socket.socket, worker: Worker) -> Lines:
    """Introduce this rank, and read up to the supervisor's welcome; OSError if there is none."""
    connection.sendall(encode(rank=worker.rank, size=worker.size))
    lines = Lines()
    while True:
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionError("no supervisor of this job listens here")
        for message in lines.feed(data):
            if "welcome" in message:
                return lines
            raise _RefusedError(message.get("refused", "it speaks another language"))
