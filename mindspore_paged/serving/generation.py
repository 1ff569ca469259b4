"""The requests that one call of a client started, as one stream of updates."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from time import perf_counter

from mindspore_paged.engine.requests.outputs import SequenceUpdate
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import PagedError
from mindspore_paged.sampling.sampler import SampledToken
from mindspore_paged.serving.deadline import Deadline
from mindspore_paged.serving.errors import ApiError, try_later
from mindspore_paged.serving.schemas.common import PromptTokensDetails, Usage
from mindspore_paged.serving.service import Service
from mindspore_paged.wording import one_line


@dataclass
class Answer:
    """One answer, as far as it has come; logprobs: None where none were asked for."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[SampledToken] | None = None
    finish_reason: str | None = None

    def add(self, update: SequenceUpdate) -> None:
        """Go on by what a step brought."""
        self.text += update.text
        self.token_ids += update.token_ids
        self.finish_reason = update.finish_reason
        if update.logprobs is not None:
            self.logprobs = (self.logprobs or []) + update.logprobs


class Generation:
    """Runs requests side by side; whoever leaves `updates` aborts what has not ended.

    is_prompt_alone: nothing is told of the tokens behind the prompts.
    """

    def __init__(self, service: Service, requests: Sequence[Request], is_prompt_alone: bool = False):
        self.requests = requests
        self._is_prompt_alone = is_prompt_alone
        self._service = service
        self._num_output_tokens = 0
        self._prompt_logprobs: dict[int, list[SampledToken | None]] = {}

    async def updates(self) -> AsyncGenerator[tuple[int, SequenceUpdate]]:
        """What each step brings, with the index of the answer: the request's, times n, plus the sequence's.

        Raises ApiError where a request fails, waits or runs too long, or is aborted by the server; PagedError where
        the engine fails.
        """
        with self._service.under_way(self.requests):
            together = self._of_one(0) if len(self.requests) == 1 else self._side_by_side()
            async with aclosing(together) as updates:
                async for index, update in updates:
                    if update.finish_reason == "error":
                        raise ApiError(500, f"the request failed: {one_line(update.error)}", code="request_failed")
                    if self._is_prompt_alone:
                        update = _without_tokens(update)
                    self._num_output_tokens += len(update.token_ids)
                    if update.prompt_logprobs is not None:
                        self._prompt_logprobs[index] = update.prompt_logprobs
                    yield index, update

    async def answers(self) -> list[Answer]:
        """All answers, when the last of them has ended; raises as `updates` does."""
        answers = [Answer() for request in self.requests for _ in range(request.params.n)]
        async with aclosing(self.updates()) as updates:
            async for index, update in updates:
                answers[index].add(update)
        return answers

    def usage(self) -> Usage:
        """The tokens counted so far."""
        num_prompt_tokens = sum(len(request.prompt_token_ids) for request in self.requests)
        return Usage(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=self._num_output_tokens,
            total_tokens=num_prompt_tokens + self._num_output_tokens,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=sum(request.num_cached_tokens or 0 for request in self.requests)
            ),
        )

    def prompt_logprobs(self, place: int) -> list[SampledToken | None] | None:
        """Those of a request's prompt, if they were asked for and one of its answers has begun."""
        return self._prompt_logprobs.get(place * self.requests[place].params.n)

    async def _of_one(self, place: int) -> AsyncGenerator[tuple[int, SequenceUpdate]]:
        request = self.requests[place]
        first = place * request.params.n
        options = self._service.options
        waited = perf_counter() - request.arrival_time
        try:
            with Deadline(_later(options.request_timeout, waited)) as deadline:
                async with aclosing(self._service.engine.generate(request)) as updates:
                    update = await _first_of(updates, request, _later(options.queue_timeout, waited), deadline)
                    while update is not None:
                        yield first + update.index, update
                        update = await deadline.wait(anext(updates, None))
        except (ApiError, PagedError):
            raise
        except asyncio.TimeoutError:
            headers = {"x-should-retry": "false"}  # clients of OpenAI's and Anthropic's would ask for the same again
            raise ApiError(504, "the request took too long", code="request_timeout", headers=headers) from None
        except Exception as error:
            raise ApiError(500, f"the engine failed: {one_line(error)}", code="engine_failed") from error
        if any(sequence.finish_reason == "abort" for sequence in request.sequences):
            raise try_later(503, "the server ended the request before it was answered", "aborted")

    async def _side_by_side(self) -> AsyncGenerator[tuple[int, SequenceUpdate]]:
        # One place: what the client has not taken yet waits in the engine's buffers, which are bounded.
        arrived: asyncio.Queue = asyncio.Queue(maxsize=1)

        async def forward(place: int) -> None:
            try:
                async with aclosing(self._of_one(place)) as updates:
                    async for update in updates:
                        await arrived.put(update)
                await arrived.put(None)
            except Exception as error:  # noqa: BLE001 - raised again where they are taken
                await arrived.put(error)

        tasks = [asyncio.create_task(forward(place)) for place in range(len(self.requests))]
        try:
            num_left = len(tasks)
            while num_left:
                update = await arrived.get()
                if isinstance(update, Exception):
                    raise update
                if update is None:
                    num_left -= 1
                else:
                    yield update
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _later(seconds: float | None, waited: float) -> float | None:
    """When so many seconds have gone by since a request's arrival, by the loop's clock."""
    return None if seconds is None else asyncio.get_running_loop().time() + seconds - waited


def _without_tokens(update: SequenceUpdate) -> SequenceUpdate:
    """The same, as if no token had been wanted: whatever it was that ended the text, its length did."""
    reason = "length" if update.finish_reason == "stop" else update.finish_reason
    logprobs = None if update.logprobs is None else []
    return replace(update, text="", token_ids=[], logprobs=logprobs, finish_reason=reason)


async def _first_of(
    updates: AsyncGenerator[SequenceUpdate], request: Request, queue_deadline: float | None, deadline: Deadline
) -> SequenceUpdate | None:
    """The first update; raises ApiError where the request's first step is not begun by queue_deadline."""
    first = asyncio.ensure_future(anext(updates, None))
    try:
        if queue_deadline is not None:
            seconds = max(queue_deadline - asyncio.get_running_loop().time(), 0)
            await asyncio.wait({first}, timeout=seconds)
            if not first.done() and request.first_scheduled_time is None:
                raise try_later(503, "the request waited too long for its turn; try again", "queue_timeout")
        return await deadline.wait(first)
    finally:
        first.cancel()
        await asyncio.wait({first})
