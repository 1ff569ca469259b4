"""POST /v1/responses: OpenAI's newer interface, without its store."""

import itertools
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import chain
from typing import Any

from fastapi import APIRouter, Request, Response

from mindspore_paged.serving.chat_requests import prepare_chat
from mindspore_paged.serving.errors import ERRORS, ApiError
from mindspore_paged.serving.generation import Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.response_items import ResponseItems
from mindspore_paged.serving.schemas.responses import (
    InputTokensDetails,
    ModelResponse,
    ResponsesRequest,
    ResponsesUsage,
)
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import event_stream, json_answer, unless_gone
from mindspore_paged.tools.answer_parser import AnswerParser

router = APIRouter(route_class=JsonRoute, tags=["responses"])


@router.post("/v1/responses", response_model=ModelResponse, responses=ERRORS)
async def create_response(http: Request, body: ResponsesRequest) -> Response:
    """Answer, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    request, make_parser = await prepare_chat(
        service, body.prompt(), body.sampling_params(service.defaults), body.call_rules(),
        tenant=http.scope.get("tenant"), model=model, param="input",
    )  # fmt: skip
    answer = _Answer(Generation(service, [request]), make_parser(), body, model)
    if body.stream:
        return await event_stream(http, answer.events(), headers, answer.error_event, last="")
    return json_answer(await unless_gone(http, answer.whole()), headers)


class _Answer:
    """A response that is being written, in OpenAI's form."""

    def __init__(self, generation: Generation, parser: AnswerParser | None, body: ResponsesRequest, model: str):
        self._generation = generation
        self._parser = parser or AnswerParser(None, None)
        self._numbers = itertools.count()
        self._items = ResponseItems(self._event)
        params = generation.requests[0].params
        self._shared = {
            "id": f"resp_{uuid.uuid4().hex}",
            "created_at": int(time.time()),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": model,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": params.temperature,
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": params.top_p,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "user": body.user,
        }

    async def whole(self) -> ModelResponse:
        (answer,) = await self._generation.answers()
        status = _status(answer.finish_reason)
        deque(self._items.finish(chain(self._parser.feed(answer.text), self._parser.finish()), status), maxlen=0)
        return self._ended(status)

    async def events(self) -> AsyncGenerator[str]:
        reason = None
        async with aclosing(self._generation.updates()) as updates:
            begun = False
            async for _, update in updates:
                if not begun:
                    begun = True
                    for event in self._opening():
                        yield event
                for event in self._items.add(self._parser.feed(update.text)):
                    yield event
                reason = update.finish_reason or reason
        status = _status(reason)
        for event in self._items.finish(self._parser.finish(), status):
            yield event
        yield self._event(f"response.{status}", response=self._ended(status).model_dump())

    def error_event(self, error: ApiError) -> str:
        """What ends a stream that fails."""
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def _opening(self) -> list[str]:
        response = ModelResponse(**self._shared, status="in_progress", output=[]).model_dump()
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def _ended(self, status: str) -> ModelResponse:
        usage = self._generation.usage()
        return ModelResponse(
            **self._shared,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details={"reason": "max_output_tokens"} if status == "incomplete" else None,
            output=self._items.items(status),
            usage=ResponsesUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details=InputTokensDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
            ),
        )

    def _event(self, kind: str, place: dict[str, Any] | None = None, **content: Any) -> str:
        event = {"type": kind, "sequence_number": next(self._numbers), **(place or {}), **content}
        return f"event: {kind}\ndata: {json.dumps(event)}\n\n"


def _status(finish_reason: str) -> str:
    return "incomplete" if finish_reason == "length" else "completed"
