"""An AsyncLLM whose answers are noted down: in the record of the HTTP request, and in the metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.engine.requests.outputs import SequenceUpdate
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.serving.answer_record import AnswerRecord
from mindspore_paged.serving.request_record import current_record


class ObservedLLM:
    """Has the face of `llm`, whose `generate` alone is watched.

    on_end: called once for each request, when its stream has ended, in the event loop.
    names: of the engine's requests under way, the ids of the HTTP requests that they are part of.
    """

    def __init__(self, llm: AsyncLLM, on_end: Callable[[AnswerRecord], None]):
        self._llm = llm
        self._on_end = on_end
        self.names: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    async def generate(self, request: Request) -> AsyncIterator[SequenceUpdate]:
        """The updates of `AsyncLLM.generate`; closing it aborts the request there."""
        answer, failed = AnswerRecord(request), False
        record = current_record()
        if record is not None:
            record.answers.append(answer)
            self.names[request.request_id] = record.request_id
        try:
            async with aclosing(self._llm.generate(request)) as updates:
                async for update in updates:
                    answer.take(update)
                    yield update
        except Exception:
            failed = True
            raise
        finally:
            self.names.pop(request.request_id, None)
            answer.end(failed)
            self._on_end(answer)
