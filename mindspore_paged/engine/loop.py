"""EngineLoop: one thread drives an engine's steps; whoever else wants something of the engine leaves a command."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.engine.requests.outputs import RequestOutput, SequenceUpdate, StepOutput
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import EngineStoppedError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

CLOSE_SECONDS = 30.0
"""How long the last step may take when the loop is closed."""

_CLOSED = "the engine was closed"


class Engine(Protocol):
    """What a loop drives: one engine, or several that look like one; see `LLMEngine` for what each of these does."""

    # ruff: noqa: D102
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def limits(self) -> ModelLimits: ...
    @property
    def model_fingerprint(self) -> str: ...
    @property
    def lora(self) -> LoraAdapters: ...
    @property
    def has_unfinished(self) -> bool: ...
    def make_request(
        self, prompt: str | Sequence[int], params: SamplingParams | BeamSearchParams, *rest, **options
    ) -> Request: ...
    def add_request(self, request: Request) -> str: ...
    def abort(self, request_id: str) -> RequestOutput | None: ...
    def step(self) -> StepOutput: ...
    def rest(self) -> None: ...
    def wake(self) -> None: ...
    def get_statistics(self) -> dict[str, float | int]: ...
    def check_integrity(self) -> None: ...
    def close(self) -> None: ...


class Subscriber(Protocol):
    """Who hears of requests; called in the loop's thread, which waits for it, so it must only take note."""

    def deliver(self, updates: list[SequenceUpdate], ended: list[Request]) -> None:
        """Take what one step brought its requests, and those of them that have ended."""

    def fail(self, requests: list[Request], error: BaseException) -> None:
        """Take note that its requests were aborted, as the engine cannot go on."""


@dataclass(frozen=True)
class _Command:
    """Something to do between two steps."""

    do: Callable[[], Any]
    answer: Future | None  # None: nobody asks, and what it raises ends the loop
    lingers: bool


class EngineLoop:
    """Drives `engine` in a thread of its own, which the first command starts, or in the one that calls `run`.

    Between two steps it does what others asked for, in their order; any thread may ask. Nobody else may touch the
    engine while requests are under way, except for `make_request` and what it reads.

    own_thread: false where `run` is called.
    on_step: hears of every step's output, in the loop's thread.
    linger_seconds: how long whoever called may take to call again before a step begins.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        own_thread: bool = True,
        on_step: Callable[[StepOutput], None] | None = None,
        linger_seconds: float = 0.0,
    ):
        self._engine = engine
        self._own_thread = own_thread
        self._on_step = on_step
        self._linger_seconds = linger_seconds
        self._commands: SimpleQueue[_Command | None] = SimpleQueue()
        self._under_way: dict[str, tuple[Request, Subscriber]] = {}
        self._thread: threading.Thread | None = None
        self._entrance = threading.Lock()
        self._closed = False

    def add(self, requests: Sequence[Request], subscriber: Subscriber) -> Future:
        """Queue requests of `make_request`, all of them or none; what comes of them goes to `subscriber`.

        The future raises RequestError if one is in use or has ended, and whatever else `add_request` raises.
        """
        return self._ask(lambda: self._add(requests, subscriber))

    def abort(self, requests: Sequence[Request], subscriber: Subscriber) -> Future:
        """End those of the subscriber's requests that are under way before the next step; it hears no more of them."""
        return self._ask(lambda: self._abort(requests, subscriber), lingers=True)

    def call(self, function: Callable[..., Any], *arguments) -> Future:
        """Do `function(engine, *arguments)` between two steps; the future has what it returns or raises."""
        return self._ask(lambda: function(self._engine, *arguments), lingers=True)

    def post(self, function: Callable[..., None], *arguments, lingers: bool = False) -> None:
        """Do `function(*arguments)` between two steps, for nobody who waits: what it raises ends the loop.

        lingers: whoever posts it may have more, which must not cost a step each.
        """
        self._put(_Command(lambda: function(*arguments), None, lingers))

    def close(self) -> None:
        """End after the step under way, and wait for that; requests that are left fail with EngineStoppedError.

        The engine itself stays open. May be called again, and by the loop's own thread.
        """
        with self._entrance:
            self._closed = True
            self._commands.put(None)
            thread = self._thread
        self._engine.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def run(self) -> None:
        """Drive the engine in this thread until `close` is called; raises what a step raises.

        Whatever ends it: requests under way fail with that, are aborted, and their pages are free.
        """
        error: BaseException = EngineStoppedError(_CLOSED)
        try:
            while self._do_commands():
                self._hand_over(self._step() if self._engine.has_unfinished else [])
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._fail_all(error)

    def _run_in_thread(self) -> None:
        while True:
            with suppress(BaseException):  # whoever waits for something has been told
                self.run()
            with self._entrance:
                if self._closed or self._commands.empty():
                    self._thread = None
                    break
        with suppress(Empty):
            while True:
                _refuse(self._commands.get_nowait())

    def _ask(self, do: Callable[[], Any], *, lingers: bool = False) -> Future:
        answer: Future = Future()
        self._put(_Command(do, answer, lingers))
        return answer

    def _put(self, command: _Command) -> None:
        with self._entrance:
            if self._closed:
                _refuse(command)
                return
            self._commands.put(command)
            if self._thread is None and self._own_thread:
                self._thread = threading.Thread(target=self._run_in_thread, name="engine loop", daemon=True)
                self._thread.start()
        self._engine.wake()

    def _do_commands(self) -> bool:
        """Do all that is there, waiting for it if there is nothing else to do; false when it is time to end."""
        wait: float | None = 0.0
        if not self._engine.has_unfinished:
            self._engine.rest()
            wait = None
        with suppress(Empty):
            while True:
                command = self._commands.get(wait != 0.0, wait)
                if command is None:
                    return False
                self._do(command)
                wait = self._linger_seconds if command.lingers else 0.0
        return True

    def _do(self, command: _Command) -> None:
        if command.answer is None:
            command.do()
            return
        if not command.answer.set_running_or_notify_cancel():
            return
        try:
            command.answer.set_result(command.do())
        except BaseException as error:  # whoever asked is told
            command.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def _add(self, requests: Sequence[Request], subscriber: Subscriber) -> None:
        added = []
        try:
            for request in requests:
                self._engine.add_request(request)
                added.append(request)
        except BaseException:
            for request in added:
                self._engine.abort(request.request_id)
            raise
        self._under_way |= {request.request_id: (request, subscriber) for request in added}

    def _abort(self, requests: Sequence[Request], subscriber: Subscriber) -> None:
        for request_id in [request.request_id for request in requests]:
            if self._under_way.get(request_id, (None, None))[1] is subscriber:
                del self._under_way[request_id]
                self._engine.abort(request_id)

    def _step(self) -> list[SequenceUpdate]:
        output = self._engine.step()
        if self._on_step is not None:
            self._on_step(output)
        return output.updates

    def _hand_over(self, updates: list[SequenceUpdate]) -> None:
        """Tell each subscriber once what there is for it; a request may have ended by a command, too."""
        news: dict[int, tuple[Subscriber, list[SequenceUpdate], list[Request]]] = {}
        for update in updates:
            if update.request_id in self._under_way:
                _, subscriber = self._under_way[update.request_id]
                news.setdefault(id(subscriber), (subscriber, [], []))[1].append(update)
        for request, subscriber in [each for each in self._under_way.values() if each[0].is_finished]:
            del self._under_way[request.request_id]
            news.setdefault(id(subscriber), (subscriber, [], []))[2].append(request)
        for subscriber, own_updates, ended in news.values():
            subscriber.deliver(own_updates, ended)

    def _fail_all(self, error: BaseException) -> None:
        under_way, self._under_way = self._under_way, {}
        subscribers: dict[int, tuple[Subscriber, list[Request]]] = {}
        for request, subscriber in under_way.values():
            subscribers.setdefault(id(subscriber), (subscriber, []))[1].append(request)
        for request_id in under_way:
            with suppress(Exception):  # of an engine that cannot go on, and has said why
                self._engine.abort(request_id)
        for subscriber, requests in subscribers.values():
            subscriber.fail(requests, error)


def _refuse(command: _Command | None) -> None:
    if command is not None and command.answer is not None and command.answer.set_running_or_notify_cancel():
        command.answer.set_exception(EngineStoppedError(_CLOSED))
