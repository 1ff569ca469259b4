"""AsyncLLM: the same model for asyncio: no call blocks the event loop, and no reader a step of the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any

from mindspore_paged.config import EngineConfig
from mindspore_paged.engine.loop import Engine
from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.engine.requests.outputs import RequestOutput, SequenceUpdate, request_output
from mindspore_paged.engine.requests.prompt_forms import Prompt
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import EngineStoppedError, RequestError, SlowReaderError
from mindspore_paged.llm import LLM
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

MAX_BUFFERED_UPDATES = 4096
"""Updates of one request that wait for their reader at most, unless another number is asked for."""


class AsyncLLM:
    """Runs the requests of one event loop in `llm`, whose engine has a thread of its own; not closed with this.

    max_buffered_updates: a request whose reader leaves more waiting is aborted, and its reader gets SlowReaderError.

        llm = AsyncLLM(LLM("configs/smollm2_135m.yaml"))
        async for update in llm.generate("The capital of France is", SamplingParams(max_tokens=16)):
            print(update.text, end="")
    """

    def __init__(self, llm: LLM, *, max_buffered_updates: int = MAX_BUFFERED_UPDATES):
        self.llm = llm
        self._max_buffered_updates = max_buffered_updates
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._mailboxes: dict[str, _Mailbox] = {}
        self._draining = False
        self._none_left = asyncio.Event()
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()

    @property
    def config(self) -> EngineConfig:
        """What the engine was built from."""
        return self.llm.config

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer, or None if its files hold none."""
        return self.llm.tokenizer

    @property
    def limits(self) -> ModelLimits:
        """What requests are checked against."""
        return self.llm.engine.limits

    @property
    def num_unfinished(self) -> int:
        """Requests that were handed over and have a reader still."""
        return len(self._mailboxes)

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._draining

    async def make_request(
        self, prompt: Prompt, params: SamplingParams | BeamSearchParams | None = None, **options
    ) -> Request:
        """As `LLM.make_request`, in another thread: templates and tokenizers take their time."""
        return await asyncio.to_thread(self.llm.make_request, prompt, params, **options)

    async def make_embedding_request(self, prompt: Prompt, pooling: str = "mean", **options) -> Request:
        """As `LLM.make_embedding_request`, in another thread."""
        return await asyncio.to_thread(self.llm.make_embedding_request, prompt, pooling, **options)

    async def generate(
        self, prompt: Prompt | Request, params: SamplingParams | None = None
    ) -> AsyncIterator[SequenceUpdate]:
        """Yield what each step adds to a prompt or a request of `make_request`; leaving it early aborts the request.

        Close it (`contextlib.aclosing`) where it is left early, or it ends when it is collected. Raises RequestError
        as `LLM.make_request` does, EngineStoppedError while draining, SlowReaderError, and what ended the engine.
        """
        request = prompt if isinstance(prompt, Request) else await self.make_request(prompt, params)
        if self._draining:
            raise EngineStoppedError("the engine takes no new requests: it is about to end")
        if request.request_id in self._mailboxes:
            raise RequestError(f"request_id {request.request_id!r} is in use by a request under way")
        self._event_loop = asyncio.get_running_loop()
        mailbox = self._mailboxes[request.request_id] = _Mailbox(request)
        try:
            await asyncio.wrap_future(self.llm.loop.add([request], self))
            while updates := await mailbox.take():
                for update in updates:
                    yield update
            if mailbox.error is not None:
                raise mailbox.error
        finally:
            if not mailbox.is_closed:
                self.llm.loop.abort([request], self)
            del self._mailboxes[request.request_id]
            if not self._mailboxes:
                self._none_left.set()

    async def run(self, request: Request) -> RequestOutput:
        """Run a request of `make_request` to its end; cancelling this aborts it. Raises what `generate` raises."""
        async with aclosing(self.generate(request)) as updates:
            async for _ in updates:
                pass
        return request_output(request)

    async def beam_search(self, prompt: Prompt, params: BeamSearchParams, **options) -> RequestOutput:
        """The likeliest answers to one prompt, as `LLM.beam_search` has them; cancelling this aborts it.

        options: as of `LLM.make_request`. Raises RequestError as that does, and what `generate` raises.
        """
        return await self.run(await self.make_request(prompt, params, **options))

    async def embed(self, prompt: Prompt, pooling: str = "mean", **options) -> RequestOutput:
        """The embedding of one prompt, as `LLM.embed` has it; cancelling this aborts it.

        options: as of `LLM.make_embedding_request`. Raises RequestError as that does, and what `generate` raises.
        """
        return await self.run(await self.make_embedding_request(prompt, pooling, **options))

    @property
    def lora(self) -> LoraAdapters:
        """The adapters that requests may ask for."""
        return self.llm.engine.lora

    async def call(self, function: Callable[..., Any], *arguments) -> Any:
        """What `function(engine, *arguments)` returns or raises, done between two steps."""
        return await asyncio.wrap_future(self.llm.loop.call(function, *arguments))

    async def get_statistics(self) -> dict[str, float | int]:
        """As `LLM.get_statistics`."""
        return await self.call(_statistics)

    async def drain(self, seconds: float | None = None) -> bool:
        """Take nothing new from now on, and wait until nothing is under way, so many seconds at most (None: for ever).

        Returns whether all have ended; the others end when their readers are cancelled.
        """
        self._draining = True
        if self._mailboxes:
            self._none_left.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), seconds)
        return not self._mailboxes

    async def wait_failed(self) -> BaseException:
        """Wait until the engine fails, which may be never; returns what ended it."""
        await self._failed.wait()
        return self._failure

    def deliver(self, updates: list[SequenceUpdate], ended: list[Request]) -> None:
        """Called by the engine's loop, in its thread: pass it on, once a step."""
        self._in_event_loop(self._sort, updates, ended)

    def fail(self, requests: list[Request], error: BaseException) -> None:
        """Called by the engine's loop, in its thread: the engine cannot go on."""
        self._in_event_loop(self._close_all, requests, error)

    def _in_event_loop(self, function: Callable[..., None], *arguments) -> None:
        with suppress(RuntimeError):  # the event loop was closed, and all readers with it
            self._event_loop.call_soon_threadsafe(function, *arguments)

    def _sort(self, updates: list[SequenceUpdate], ended: list[Request]) -> None:
        for update in updates:
            mailbox = self._mailboxes.get(update.request_id)
            if mailbox is None or mailbox.is_closed:
                continue
            mailbox.put(update)
            if mailbox.num_waiting > self._max_buffered_updates:
                self.llm.loop.abort([mailbox.request], self)
                mailbox.cut_off(f"its reader left {self._max_buffered_updates} updates waiting")
        for request in ended:
            if request.request_id in self._mailboxes:
                self._mailboxes[request.request_id].close()

    def _close_all(self, requests: list[Request], error: BaseException) -> None:
        for request in requests:
            if request.request_id in self._mailboxes:
                self._mailboxes[request.request_id].close(error)
        if not isinstance(error, EngineStoppedError):
            self._failure = error
            self._failed.set()


class _Mailbox:
    """What waits for one request's reader."""

    def __init__(self, request: Request):
        self.request = request
        self.is_closed = False  # nothing more comes: the request has ended
        self.error: BaseException | None = None
        self._updates: list[SequenceUpdate] = []
        self._changed = asyncio.Event()

    @property
    def num_waiting(self) -> int:
        return len(self._updates)

    def put(self, update: SequenceUpdate) -> None:
        self._updates.append(update)
        self._changed.set()

    def close(self, error: BaseException | None = None) -> None:
        if not self.is_closed:
            self.is_closed, self.error = True, error
            self._changed.set()

    def cut_off(self, reason: str) -> None:
        """Close it, and let go of what waits."""
        self._updates.clear()
        self.close(SlowReaderError(f"request {self.request.request_id!r} was aborted: {reason}"))

    async def take(self) -> list[SequenceUpdate]:
        """All that waits, as soon as there is something; nothing when nothing more comes."""
        while not self._updates and not self.is_closed:
            self._changed.clear()
            await self._changed.wait()
        updates, self._updates = self._updates, []
        return updates


def _statistics(engine: Engine) -> dict[str, float | int]:
    return engine.get_statistics()
