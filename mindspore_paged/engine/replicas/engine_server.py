"""What a replica's process does: it runs its engine, at the word of the process that routes."""

import os
import socket
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from threading import Thread
from time import perf_counter

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.loop import EngineLoop
from mindspore_paged.engine.replicas.messages import Add, Call, Failed, Reply, Stepped
from mindspore_paged.engine.requests.outputs import StepOutput
from mindspore_paged.errors import PagedError

BURST_SECONDS = 0.005
"""After a call the router often has another (who interrupts a run aborts all of it): that must not cost a step each."""


class EngineServer:
    """Serves one engine to the router at the other end of `connection`."""

    def __init__(self, engine: LLMEngine, connection: Connection):
        self._engine = engine
        self._connection = connection
        self._loop = EngineLoop(engine, own_thread=False, on_step=self._tell, linger_seconds=BURST_SECONDS)

    def serve(self) -> None:
        """Run what comes, until the router says that it is enough or is gone; an error of ours is told, and raised.

        Requests that are under way then end with their engine.
        """
        reader = Thread(target=self._read, name="router", daemon=True)
        reader.start()
        try:
            self._loop.run()
        except _RouterIsGone:
            pass
        except BaseException as error:
            with suppress(OSError):
                self._connection.send(Failed(_one_line(error)))
            raise
        finally:
            self._end_reading()
            reader.join()  # its file descriptor may otherwise become another file's under its hands
            self._connection.close()

    def _read(self) -> None:
        """Hand the router's commands to the loop, in their order."""
        with suppress(EOFError, OSError):  # the end, whoever brought it about
            while (command := self._connection.recv()) is not None:
                if isinstance(command, Add):
                    self._loop.post(self._add, command)
                else:
                    self._loop.post(self._perform, command, lingers=True)
        self._loop.close()

    def _end_reading(self) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as same:
            same.shutdown(socket.SHUT_RD)

    def _add(self, command: Add) -> None:
        request = self._engine.make_request(
            command.prompt_token_ids,
            command.params,
            command.request_id,
            command.priority,
            command.request_class,
            command.cache_salt,
            command.pooling,
            command.lora_adapter,
        )
        request.arrival_time = perf_counter() - command.waited
        self._engine.add_request(request)

    def _perform(self, command: Call) -> None:
        try:
            reply = Reply(command.number, command.function(self._engine, *command.arguments))
        except PagedError as error:
            reply = Reply(command.number, None, error)
        self._send(reply)

    def _tell(self, output: StepOutput) -> None:
        if output.updates or output.finished:
            self._send(Stepped(output.updates, [replace(a, prompt=None, prompt_token_ids=[]) for a in output.finished]))

    def _send(self, message: Reply | Stepped) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise _RouterIsGone from None


class _RouterIsGone(Exception):
    """The connection ended: whether that is a fault is for the job's supervisor to judge."""


def _one_line(error: BaseException) -> str:
    lines = str(error).split("\n")
    return lines[0] if isinstance(error, PagedError) else f"{type(error).__name__}: {lines[0]}"
