"""POST /v1/chat/completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from mindspore_paged.engine.requests.outputs import SequenceUpdate
from mindspore_paged.serving.errors import ERRORS
from mindspore_paged.serving.generation import Answer, Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.logprobs import chat_logprobs
from mindspore_paged.serving.schemas.chat import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionRequest,
    Delta,
)
from mindspore_paged.serving.schemas.common import Usage
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import TextEvent, event_stream, json_answer, unless_gone

router = APIRouter(route_class=JsonRoute, tags=["chat"])


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def create_chat_completion(http: Request, body: ChatCompletionRequest) -> Response:
    """Answer a chat, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    requests = await service.prepare(
        [body.prompt()], body.sampling_params(service.defaults), tenant=http.scope.get("tenant"), param="messages",
        **body.admission,
    )  # fmt: skip
    chat = _Chat(service, Generation(service, requests), body, model)
    if body.stream:
        return await event_stream(http, chat.events(), headers)
    return json_answer(await unless_gone(http, chat.whole()), headers)


class _Chat:
    """A chat that is being answered, in OpenAI's form."""

    def __init__(self, service: Service, generation: Generation, body: ChatCompletionRequest, model: str):
        self._texts = service.token_texts
        self._generation = generation
        self._body = body
        self._shared = service.head("chatcmpl", model)
        self._num_answers = generation.requests[0].params.n
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
                if update.text or update.token_ids:
                    yield self._piece(index, update)
                if update.finish_reason is not None:
                    last = ChatChunkChoice(index=index, delta=Delta(), finish_reason=update.finish_reason)
                    yield self._event(last)
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

    def _piece(self, index: int, update: SequenceUpdate) -> str:
        if update.logprobs is None and not self._body.return_token_ids:
            if index not in self._pieces:
                self._pieces[index] = TextEvent(
                    lambda text: self._event(ChatChunkChoice(index=index, delta=Delta(content=text)))
                )
            return self._pieces[index].of(update.text)
        choice = ChatChunkChoice(
            index=index,
            delta=Delta(content=update.text),
            logprobs=chat_logprobs(update.logprobs, self._texts),
            token_ids=self._ids(update.token_ids),
        )
        return self._event(choice)

    def _event(
        self, *choices: ChatChunkChoice, usage: Usage | None = None, prompt_token_ids: list[int] | None = None
    ) -> str:
        chunk = ChatChunk(**self._shared, choices=list(choices), usage=usage, prompt_token_ids=prompt_token_ids)
        return f"data: {chunk.model_dump_json(exclude=None if self._body.includes_usage else {'usage'})}\n\n"

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        return ChatChoice(
            index=index,
            message=AnswerMessage(content=answer.text),
            logprobs=chat_logprobs(answer.logprobs, self._texts),
            finish_reason=answer.finish_reason,
            token_ids=self._ids(answer.token_ids),
        )

    def _ids(self, token_ids: list[int]) -> list[int] | None:
        return list(token_ids) if self._body.return_token_ids else None
