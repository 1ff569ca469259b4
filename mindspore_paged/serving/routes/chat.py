"""POST /v1/chat/completions."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from mindspore_paged.engine.requests.outputs import SequenceUpdate
from mindspore_paged.serving.chat_requests import MakeParser, new_call_id, parts_of, prepare_chat
from mindspore_paged.serving.errors import ERRORS
from mindspore_paged.serving.generation import Answer, Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.logprobs import chat_logprobs
from mindspore_paged.serving.schemas.chat import (
    AnswerMessage,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionRequest,
    Delta,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from mindspore_paged.serving.schemas.common import Usage
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import TextEvent, event_stream, json_answer, unless_gone
from mindspore_paged.tools.answer_parser import AnswerParser
from mindspore_paged.tools.pieces import Piece

router = APIRouter(route_class=JsonRoute, tags=["chat"])


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def create_chat_completion(http: Request, body: ChatCompletionRequest) -> Response:
    """Answer a chat, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    request, make_parser = await prepare_chat(
        service, body.prompt(), body.sampling_params(service.defaults), body.call_rules(),
        tenant=http.scope.get("tenant"), model=model, **body.admission,
    )  # fmt: skip
    chat = _Chat(service, Generation(service, [request]), make_parser, body, model)
    if body.stream:
        return await event_stream(http, chat.events(), headers)
    return json_answer(await unless_gone(http, chat.whole()), headers)


class _Chat:
    """A chat that is being answered, in OpenAI's form."""

    def __init__(
        self,
        service: Service,
        generation: Generation,
        make_parser: MakeParser,
        body: ChatCompletionRequest,
        model: str,
    ):
        self._texts = service.token_texts
        self._generation = generation
        self._body = body
        self._shared = service.head("chatcmpl", model)
        self._num_answers = generation.requests[0].params.n
        self._make_parser = make_parser
        self._readers = [_Reader(make_parser()) for _ in range(self._num_answers)]
        self._pieces: dict[int, TextEvent] = {}  # those of each answer that are text and nothing else

    async def whole(self) -> ChatCompletion:
        answers = await self._generation.answers()
        return ChatCompletion(
            **self._shared,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=self._generation.usage(),
            prompt_token_ids=self._ids(self._generation.requests[0].prompt_token_ids),
        )

    async def events(self) -> AsyncGenerator[str]:
        async with aclosing(self._generation.updates()) as updates:
            begun = False
            async for index, update in updates:
                if not begun:
                    begun = True
                    for event in self._opening():
                        yield event
                for event in self._of_update(index, update):
                    yield event
        if self._body.includes_usage:
            yield self._event(usage=self._generation.usage())

    def _opening(self) -> list[str]:
        """Who speaks, once for each answer."""
        prompt = self._ids(self._generation.requests[0].prompt_token_ids)
        openings = [
            ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))
            for index in range(self._num_answers)
        ]
        return [self._event(opening, prompt_token_ids=prompt if opening.index == 0 else None) for opening in openings]

    def _of_update(self, index: int, update: SequenceUpdate) -> Iterator[str]:
        reader = self._readers[index]
        tells_tokens = update.logprobs is not None or bool(self._body.return_token_ids)
        if update.text or update.token_ids:
            deltas = reader.deltas(update.text)
            if tells_tokens:
                yield self._event(
                    ChatChunkChoice(
                        index=index,
                        delta=next(deltas, Delta(content="")),
                        logprobs=chat_logprobs(update.logprobs, self._texts),
                        token_ids=self._ids(update.token_ids),
                    )
                )
            for delta in deltas:
                yield self._piece(index, delta)
        if update.finish_reason is not None:
            for delta in reader.last_deltas():
                yield self._piece(index, delta)
            reason = _finish_reason(update.finish_reason, reader.num_calls)
            yield self._event(ChatChunkChoice(index=index, delta=Delta(), finish_reason=reason))

    def _piece(self, index: int, delta: Delta) -> str:
        if delta.content is None:
            return self._event(ChatChunkChoice(index=index, delta=delta))
        if index not in self._pieces:
            self._pieces[index] = TextEvent(
                lambda text: self._event(ChatChunkChoice(index=index, delta=Delta(content=text)))
            )
        return self._pieces[index].of(delta.content)

    def _event(
        self, *choices: ChatChunkChoice, usage: Usage | None = None, prompt_token_ids: list[int] | None = None
    ) -> str:
        chunk = ChatChunk(**self._shared, choices=list(choices), usage=usage, prompt_token_ids=prompt_token_ids)
        return f"data: {chunk.model_dump_json(exclude=None if self._body.includes_usage else {'usage'})}\n\n"

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        parts = parts_of(self._make_parser(), answer.text)
        calls = [
            ToolCall(id=new_call_id(), function=CalledFunction(name=name, arguments=arguments))
            for name, arguments in parts.calls
        ]
        has_others = bool(calls or parts.reasoning)
        return ChatChoice(
            index=index,
            message=AnswerMessage(
                content=None if has_others and not parts.content else parts.content,
                reasoning_content=parts.reasoning or None,
                tool_calls=calls or None,
            ),
            logprobs=chat_logprobs(answer.logprobs, self._texts),
            finish_reason=_finish_reason(answer.finish_reason, len(calls)),
            token_ids=self._ids(answer.token_ids),
        )

    def _ids(self, token_ids: list[int]) -> list[int] | None:
        return list(token_ids) if self._body.return_token_ids else None


class _Reader:
    """One answer's text as deltas; without a parser all of it is content."""

    def __init__(self, parser: AnswerParser | None):
        self._parser = parser
        self.num_calls = 0

    def deltas(self, text: str) -> Iterator[Delta]:
        """What so much more text brings."""
        if self._parser is None:
            return iter((Delta(content=text),))
        return self._of_pieces(self._parser.feed(text))

    def last_deltas(self) -> Iterator[Delta]:
        """What was held back."""
        return iter(()) if self._parser is None else self._of_pieces(self._parser.finish())

    def _of_pieces(self, pieces: Iterable[Piece]) -> Iterator[Delta]:
        for piece in pieces:
            if piece.kind == "content":
                yield Delta(content=piece.text)
            elif piece.kind == "reasoning":
                yield Delta(reasoning_content=piece.text)
            else:
                yield Delta(tool_calls=[self._of_call(piece)])

    def _of_call(self, piece: Piece) -> ToolCallDelta:
        if piece.kind == "arguments":
            return ToolCallDelta(index=self.num_calls - 1, function=FunctionDelta(arguments=piece.text))
        self.num_calls += 1
        begun = FunctionDelta(name=piece.text, arguments="")
        return ToolCallDelta(index=self.num_calls - 1, id=new_call_id(), type="function", function=begun)


def _finish_reason(reason: str, num_calls: int) -> str:
    return "tool_calls" if reason == "stop" and num_calls else reason
