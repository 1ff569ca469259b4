"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's interface."""

import json
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from mindspore_paged.serving.chat_requests import blocks_of, prepare_chat
from mindspore_paged.serving.errors import MESSAGES_ERRORS, ApiError, anthropic_body, bad_request
from mindspore_paged.serving.generation import Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.schemas.messages import (
    AnswerOfMessages,
    AnthropicUsage,
    CountTokensRequest,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    TokenCount,
    ToolUseBlock,
)
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import event_stream, json_answer, unless_gone
from mindspore_paged.tools.answer_parser import AnswerParser
from mindspore_paged.tools.pieces import Block, Piece, add_piece

_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "arguments": ("input_json_delta", "partial_json"),
}

router = APIRouter(route_class=JsonRoute, tags=["messages"])


@router.post("/v1/messages", response_model=AnswerOfMessages, responses=MESSAGES_ERRORS)
async def create_message(http: Request, body: MessagesRequest) -> Response:
    """Answer a chat, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    if body.thinks and service.answer_forms.thoughts is None:
        raise bad_request("thinking must be of type disabled: this model writes no thoughts", "thinking")
    request, make_parser = await prepare_chat(
        service, body.prompt(), body.sampling_params(service.defaults), body.call_rules(),
        tenant=http.scope.get("tenant"), model=model,
    )  # fmt: skip
    message = _Message(Generation(service, [request]), make_parser(), model)
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

    def __init__(self, generation: Generation, parser: AnswerParser | None, model: str):
        self._generation = generation
        self._parser = parser or AnswerParser(None, None)
        self._sequence = generation.requests[0].sequences[0]
        self._shared = {"id": f"msg_{uuid.uuid4().hex}", "model": model}

    async def whole(self) -> AnswerOfMessages:
        (answer,) = await self._generation.answers()
        blocks = blocks_of(self._parser, answer.text)
        return AnswerOfMessages(
            **self._shared,
            content=[_content(block) for block in blocks],
            **self._end(answer.finish_reason, blocks),
            usage=self._usage(),
        )

    async def events(self) -> AsyncGenerator[str]:
        reason, blocks = None, []
        async with aclosing(self._generation.updates()) as updates:
            begun = False
            async for _, update in updates:
                if not begun:
                    begun = True
                    opening = AnswerOfMessages(**self._shared, content=[], stop_reason=None, usage=self._usage())
                    yield _event("message_start", message=opening.model_dump())
                for event in _events(blocks, self._parser.feed(update.text)):
                    yield event
                reason = update.finish_reason or reason
        rest = self._parser.finish()
        for event in _events(blocks, rest or ([] if blocks else [Piece("content", "")])):
            yield event
        yield _event("content_block_stop", index=len(blocks) - 1)
        yield _event("message_delta", delta=self._end(reason, blocks), usage=self._usage().model_dump())
        yield _event("message_stop")

    def _end(self, finish_reason: str, blocks: Sequence[Block]) -> dict[str, str | None]:
        stopped_by = self._sequence.detokenizer.stopped_by if finish_reason == "stop" else None
        if finish_reason == "length":
            reason = "max_tokens"
        elif any(block.kind == "call" for block in blocks):
            reason, stopped_by = "tool_use", None
        else:
            reason = "end_turn" if stopped_by is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stopped_by}

    def _usage(self) -> AnthropicUsage:
        usage = self._generation.usage()
        cached = usage.prompt_tokens_details.cached_tokens
        return AnthropicUsage(
            input_tokens=usage.prompt_tokens - cached,
            output_tokens=usage.completion_tokens,
            cache_read_input_tokens=cached,
        )


def _content(block: Block) -> TextBlock | ThinkingBlock | ToolUseBlock:
    """A block of an answer in Anthropic's form; that of a call that breaks off has no input."""
    if block.kind == "content":
        return TextBlock(text=block.text)
    if block.kind == "reasoning":
        return ThinkingBlock(thinking=block.text)
    return ToolUseBlock(id=f"toolu_{uuid.uuid4().hex[:24]}", name=block.name, input=_input(block.text))


def _input(arguments: str) -> dict[str, Any]:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return {}


def _events(blocks: list[Block], pieces: Iterable[Piece]) -> Iterator[str]:
    """What these pieces are as events; they are added to the answer's blocks."""
    for piece in pieces:
        if add_piece(blocks, piece):
            index = len(blocks) - 1
            if index:
                yield _event("content_block_stop", index=index - 1)
            empty = _content(replace(blocks[-1], text="")).model_dump(exclude_none=True)
            yield _event("content_block_start", index=index, content_block=empty)
        if piece.kind != "name" and piece.text:
            kind, key = _DELTAS[piece.kind]
            yield _event("content_block_delta", index=len(blocks) - 1, delta={"type": kind, key: piece.text})


def _event(kind: str, **content: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | content)}\n\n"


def _error_event(error: ApiError) -> str:
    return f"event: error\ndata: {anthropic_body(error)}\n\n"
