"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's interface."""

import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from mindspore_paged.serving.errors import MESSAGES_ERRORS, ApiError, anthropic_body
from mindspore_paged.serving.generation import Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.schemas.messages import (
    AnswerOfMessages,
    AnthropicUsage,
    CountTokensRequest,
    MessagesRequest,
    TextBlock,
    TokenCount,
)
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import event_stream, json_answer, unless_gone

router = APIRouter(route_class=JsonRoute, tags=["messages"])


@router.post("/v1/messages", response_model=AnswerOfMessages, responses=MESSAGES_ERRORS)
async def create_message(http: Request, body: MessagesRequest) -> Response:
    """Answer a chat, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    requests = await service.prepare(
        [body.prompt()], body.sampling_params(service.defaults), tenant=http.scope.get("tenant"), param="messages"
    )
    message = _Message(Generation(service, requests), model)
    if body.stream:
        return await event_stream(http, message.events(), headers, _error_event, last="")
    return json_answer(await unless_gone(http, message.whole()), headers)


@router.post("/v1/messages/count_tokens", responses=MESSAGES_ERRORS)
async def count_tokens(http: Request, body: CountTokensRequest) -> TokenCount:
    """How many tokens a chat has."""
    service: Service = http.app.state.service
    service.checked_model(body.model)
    (request,) = await service.prepare([body.prompt()], service.defaults, param="messages")
    return TokenCount(input_tokens=len(request.prompt_token_ids))


class _Message:
    """A chat that is being answered, in Anthropic's form."""

    def __init__(self, generation: Generation, model: str):
        self._generation = generation
        self._sequence = generation.requests[0].sequences[0]
        self._shared = {"id": f"msg_{uuid.uuid4().hex}", "model": model}

    async def whole(self) -> AnswerOfMessages:
        (answer,) = await self._generation.answers()
        return AnswerOfMessages(
            **self._shared,
            content=[TextBlock(text=answer.text)],
            **self._end(answer.finish_reason),
            usage=self._usage(),
        )

    async def events(self) -> AsyncGenerator[str]:
        reason = None
        async with aclosing(self._generation.updates()) as updates:
            begun = False
            async for _, update in updates:
                if not begun:
                    begun = True
                    opening = AnswerOfMessages(**self._shared, content=[], stop_reason=None, usage=self._usage())
                    yield _event("message_start", message=opening.model_dump())
                    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
                if update.text:
                    yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": update.text})
                reason = update.finish_reason or reason
        yield _event("content_block_stop", index=0)
        yield _event("message_delta", delta=self._end(reason), usage=self._usage().model_dump())
        yield _event("message_stop")

    def _end(self, finish_reason: str) -> dict[str, str | None]:
        stopped_by = self._sequence.detokenizer.stopped_by if finish_reason == "stop" else None
        reason = "max_tokens" if finish_reason == "length" else "end_turn" if stopped_by is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stopped_by}

    def _usage(self) -> AnthropicUsage:
        usage = self._generation.usage()
        cached = usage.prompt_tokens_details.cached_tokens
        return AnthropicUsage(
            input_tokens=usage.prompt_tokens - cached,
            output_tokens=usage.completion_tokens,
            cache_read_input_tokens=cached,
        )


def _event(kind: str, **content: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | content)}\n\n"


def _error_event(error: ApiError) -> str:
    return f"event: error\ndata: {anthropic_body(error)}\n\n"
