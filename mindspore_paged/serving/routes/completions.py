"""POST /v1/completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from mindspore_paged.engine.requests.outputs import SequenceUpdate
from mindspore_paged.serving.errors import ERRORS
from mindspore_paged.serving.generation import Answer, Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.logprobs import completion_logprobs
from mindspore_paged.serving.schemas.common import Usage
from mindspore_paged.serving.schemas.completions import Completion, CompletionChoice, CompletionRequest
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import event_stream, json_answer, unless_gone

router = APIRouter(route_class=JsonRoute, tags=["completions"])


@router.post("/v1/completions", response_model=Completion, responses=ERRORS)
async def create_completion(http: Request, body: CompletionRequest) -> Response:
    """Go on from prompts, whole or, with `stream`, as server-sent events."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    prompts = [{"prompt" if isinstance(prompt, str) else "prompt_token_ids": prompt} for prompt in body.prompts]
    requests = await service.prepare(
        prompts, body.sampling_params(service.defaults),
        tenant=http.scope.get("tenant"), model=model, **body.admission,
    )  # fmt: skip
    completion = _Completion(service, Generation(service, requests, body.is_prompt_alone), body, model)
    if body.stream:
        return await event_stream(http, completion.events(), headers)
    return json_answer(await unless_gone(http, completion.whole()), headers)


class _Completion:
    """Prompts that are being gone on from, in OpenAI's form."""

    def __init__(self, service: Service, generation: Generation, body: CompletionRequest, model: str):
        self._service = service
        self._generation = generation
        self._body = body
        self._shared = service.head("cmpl", model)
        self._per_prompt = generation.requests[0].params.n
        self._lengths: dict[int, int] = {}  # characters of each answer that were sent

    async def whole(self) -> Completion:
        answers = await self._generation.answers()
        return Completion(
            **self._shared,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=self._generation.usage(),
        )

    async def events(self) -> AsyncGenerator[str]:
        async with aclosing(self._generation.updates()) as updates:
            async for index, update in updates:
                yield self._event(self._choice(index, update))
        if self._body.includes_usage:
            yield self._event(usage=self._generation.usage())

    def _event(self, *choices: CompletionChoice, usage: Usage | None = None) -> str:
        chunk = Completion(**self._shared, choices=list(choices), usage=usage)
        return f"data: {chunk.model_dump_json(exclude=None if self._body.includes_usage else {'usage'})}\n\n"

    def _choice(self, index: int, answer: Answer | SequenceUpdate) -> CompletionChoice:
        begins = index not in self._lengths
        echoes = begins and self._body.echo
        prompt = self._prompt(index) if echoes else ""
        offset = self._lengths.get(index, 0) + len(prompt)
        self._lengths[index] = offset + len(answer.text)
        logprobs, texts = answer.logprobs, self._service.token_texts
        told = self._generation.prompt_logprobs(index // self._per_prompt) if echoes and logprobs is not None else None
        ids = self._body.return_token_ids
        return CompletionChoice(
            index=index,
            text=prompt + answer.text,
            logprobs=(
                completion_logprobs(logprobs, texts, offset)
                if told is None
                else completion_logprobs([*told[1:], *logprobs], texts, 0, self._request(index).prompt_token_ids[0])
            ),
            finish_reason=answer.finish_reason,
            token_ids=answer.token_ids if ids else None,
            prompt_token_ids=self._request(index).prompt_token_ids if ids and begins else None,
        )

    def _request(self, index: int):
        return self._generation.requests[index // self._per_prompt]

    def _prompt(self, index: int) -> str:
        """The prompt as it was given, or what its token ids stand for."""
        request, tokenizer = self._request(index), self._service.engine.tokenizer
        if request.prompt is not None or tokenizer is None:
            return request.prompt or ""
        return tokenizer.decode(request.prompt_token_ids)
