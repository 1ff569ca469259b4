"""What a replica's process does: it steps its engine, at the word of the process that routes."""

from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.replicas.messages import Add, Call, Failed, Reply, Stepped
from mindspore_paged.errors import PagedError
from mindspore_paged.launch import supervision

BURST_SECONDS = 0.005
"""After a call the router often has another (who interrupts a run aborts all of it): that must not cost a step each."""


class EngineServer:
    """Serves one engine to the router at the other end of `connection`."""

    def __init__(self, engine: LLMEngine, connection: Connection):
        self._engine = engine
        self._connection = connection

    def serve(self) -> None:
        """Run what comes, until the router says that it is enough or is gone; an error of ours is told, and raised.

        Requests that are under way then end with their engine.
        """
        try:
            while self._take_commands():
                if self._engine.has_unfinished:
                    self._step()
        except _RouterIsGone:
            pass
        except BaseException as error:
            with suppress(OSError):
                self._connection.send(Failed(_one_line(error)))
            raise
        finally:
            self._connection.close()

    def _step(self) -> None:
        output = self._engine.step()
        if output.updates or output.finished:
            self._send(Stepped(output.updates, [replace(a, prompt=None, prompt_token_ids=[]) for a in output.finished]))

    def _take_commands(self) -> bool:
        """Do all that is there, waiting for it if there is nothing else to do; False: the router wants no more."""
        wait: float | None = 0.0
        if not self._engine.has_unfinished:
            supervision.report_state(self._engine.metrics.num_steps, "idle")
            wait = None
        while self._connection.poll(wait):
            command = self._receive()
            if command is None:
                return False
            wait = self._perform(command)
        return True

    def _perform(self, command: Add | Call) -> float:
        """Do it; returns the seconds that the next command is worth waiting for."""
        if isinstance(command, Add):
            self._add(command)
            return 0.0
        try:
            reply = Reply(command.number, command.function(self._engine, *command.arguments))
        except PagedError as error:
            reply = Reply(command.number, None, error)
        self._send(reply)
        return BURST_SECONDS

    def _add(self, command: Add) -> None:
        request = self._engine.make_request(
            command.prompt_token_ids,
            command.params,
            command.request_id,
            command.priority,
            command.request_class,
            command.cache_salt,
        )
        request.arrival_time = perf_counter() - command.waited
        self._engine.add_request(request)

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise _RouterIsGone from None

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise _RouterIsGone from None


class _RouterIsGone(Exception):
    """The connection ended: whether that is a fault is for the job's supervisor to judge."""


def _one_line(error: BaseException) -> str:
    lines = str(error).split("\n")
    return lines[0] if isinstance(error, PagedError) else f"{type(error).__name__}: {lines[0]}"
