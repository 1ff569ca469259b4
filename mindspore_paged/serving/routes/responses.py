"""POST /v1/responses: OpenAI's newer interface, without its store."""

import itertools
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from mindspore_paged.serving.errors import ERRORS, ApiError
from mindspore_paged.serving.generation import Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.schemas.responses import (
    InputTokensDetails,
    ModelResponse,
    OutputMessage,
    OutputText,
    ResponsesRequest,
    ResponsesUsage,
)
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import event_stream, json_answer, unless_gone

router = APIRouter(route_class=JsonRoute, tags=["responses"])


@router.post("/v1/responses", response_model=ModelResponse, responses=ERRORS)
async def create_response(http: Request, body: ResponsesRequest) -> Response:
    """Answer, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    requests = await service.prepare(
        [body.prompt()], body.sampling_params(service.defaults), tenant=http.scope.get("tenant"), param="input"
    )
    answer = _Answer(Generation(service, requests), body, model)
    if body.stream:
        return await event_stream(http, answer.events(), headers, answer.error_event, last="")
    return json_answer(await unless_gone(http, answer.whole()), headers)


class _Answer:
    """A response that is being written, in OpenAI's form."""

    def __init__(self, generation: Generation, body: ResponsesRequest, model: str):
        self._generation = generation
        self._message_id = f"msg_{uuid.uuid4().hex}"
        self._numbers = itertools.count()
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
        return self._ended(answer.text, answer.finish_reason)

    async def events(self) -> AsyncGenerator[str]:
        text, reason = "", None
        async with aclosing(self._generation.updates()) as updates:
            begun = False
            async for _, update in updates:
                if not begun:
                    begun = True
                    for event in self._opening():
                        yield event
                if update.text:
                    text += update.text
                    yield self._event("response.output_text.delta", self._place(), delta=update.text, logprobs=[])
                reason = update.finish_reason or reason
        response = self._ended(text, reason)
        (item,) = response.output
        (part,) = item.content
        yield self._event("response.output_text.done", self._place(), text=text, logprobs=[])
        yield self._event("response.content_part.done", self._place(), part=part.model_dump())
        yield self._event("response.output_item.done", output_index=0, item=item.model_dump())
        yield self._event(f"response.{response.status}", response=response.model_dump())

    def error_event(self, error: ApiError) -> str:
        """What ends a stream that fails."""
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def _opening(self) -> list[str]:
        response = ModelResponse(**self._shared, status="in_progress", output=[]).model_dump()
        item = OutputMessage(id=self._message_id, status="in_progress", content=[]).model_dump()
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
            self._event("response.output_item.added", output_index=0, item=item),
            self._event("response.content_part.added", self._place(), part=OutputText(text="").model_dump()),
        ]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    def _ended(self, text: str, finish_reason: str) -> ModelResponse:
        status = "incomplete" if finish_reason == "length" else "completed"
        usage = self._generation.usage()
        return ModelResponse(
            **self._shared,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details={"reason": "max_output_tokens"} if status == "incomplete" else None,
            output=[OutputMessage(id=self._message_id, status=status, content=[OutputText(text=text)])],
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
