"""What every route works with: the engine, the model's names, and whether another request is taken."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.config import EngineConfig, ServerSection
from mindspore_paged.engine.loop import Engine
from mindspore_paged.engine.requests.prompt_forms import text_or_token_ids
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.logits_processors import check_allowed
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.serving.errors import ApiError, as_api_error, draining, try_later
from mindspore_paged.serving.token_texts import TokenTexts
from mindspore_paged.tools.answer_forms import AnswerForms
from mindspore_paged.wording import shortened

PACKAGE = "mindspore_paged"

ABORT_SECONDS = 2.0
"""That clients may take to read how their requests ended."""


class Service:
    """The engine behind the routes; lives in the event loop's thread.

    model_names: what clients may call the model, the first in answers; none of them may be an adapter's.
    """

    def __init__(self, engine: AsyncLLM, options: ServerSection, model_names: Sequence[str]):
        self.engine = engine
        self.options = options
        self.model_names = tuple(model_names)
        self.created = int(time.time())
        self.fingerprint = _fingerprint(engine.llm.engine)
        self.token_texts = TokenTexts(engine.tokenizer)
        self.answer_forms = AnswerForms(engine.tokenizer)
        config = engine.config
        self._num_running_at_most = config.scheduler.max_num_seqs * config.parallel.data_parallel_size
        self._num_preparing = 0
        self._under_way: dict[str, Request] = {}

    @property
    def defaults(self) -> SamplingParams:
        """What a request gets that does not say otherwise."""
        return self.engine.config.sampling

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self.engine.is_draining

    @property
    def num_waiting(self) -> int:
        """Requests that have not had a step yet."""
        return self._num_preparing + sum(request.first_scheduled_time is None for request in self._under_way.values())

    @property
    def num_under_way(self) -> int:
        """Requests that have not been answered to their end."""
        return self._num_preparing + len(self._under_way)

    def checked_model(self, name: str | None) -> str:
        """The name that answers give the model, or its adapter; raises ApiError for one that is not served.

        None is the model's first.
        """
        adapters = self.engine.lora.names
        if name is None or name in self.model_names or name in adapters:
            return name or self.model_names[0]
        served = ", ".join((*self.model_names, *adapters))
        raise ApiError(404, f"the model {shortened(name)} is not served; served: {served}", code="model_not_found")

    def head(self, kind: str, model: str) -> dict[str, Any]:
        """What every answer, and each of its chunks, begins with; kind: the beginning of its id."""
        return {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": self.fingerprint,
        }

    def check_open(self) -> None:
        """Raise ApiError while no further request is taken.

        Those that came together and have not had a step yet do not wait, as long as there is room for them to run.
        """
        if self.is_draining:
            raise draining()
        if self.num_under_way >= self.options.max_queued_requests + self._num_running_at_most:
            raise try_later(429, f"{self.num_waiting} requests are waiting already; try again", "queue_full")

    async def prepare(
        self,
        prompts: Sequence[Any],
        params: SamplingParams | BeamSearchParams | None,
        *,
        pooling: str | None = None,
        priority: int | None = None,
        cache_salt: str | None = None,
        tenant: str | None = None,
        model: str | None = None,
        param: str = "prompt",
    ) -> list[Request]:
        """Requests for prompts in any form that the engine takes; checked, but not begun.

        pooling: they ask for embeddings, of this kind, and params are not looked at. tenant: who asks, where keys are
        told apart. model: the name of the model, or of an adapter. param: the body's key that holds the prompts.
        Raises ApiError where they cannot be run, or not now; RequestError for logits processors that are not allowed.
        """
        self.check_open()
        if isinstance(params, SamplingParams) and params.logits_processors != self.defaults.logits_processors:
            check_allowed(params.logits_processors, self.options.logits_processor_pattern)
        lora_adapter = None if model is None or model in self.model_names else model
        salt = self._salt(cache_salt, tenant)
        options = {"priority": priority or 0, "cache_salt": salt, "lora_adapter": lora_adapter}
        if pooling is None:
            make = partial(self.engine.make_request, params=params, **options)
        else:
            make = partial(self.engine.make_embedding_request, pooling=pooling, **options)
        requests = []
        with self._preparing(len(prompts)):
            for index, prompt in enumerate(prompts):
                try:
                    requests.append(await make(prompt))
                except RequestError as error:
                    raise as_api_error(error, param if len(prompts) == 1 else f"{param}[{index}]") from None
        return requests

    async def encoded_chat(self, chat: dict[str, Any], param: str = "messages") -> list[int]:
        """The token ids of a chat; raises ApiError for one that has none, or while no further request is taken."""
        self.check_open()
        limits, own = self.engine.limits, self.engine.config.model.chat_template_kwargs
        with self._preparing(1):
            try:
                return await asyncio.to_thread(
                    text_or_token_ids, chat, self.engine.tokenizer, own, limits.max_model_len
                )
            except RequestError as error:
                raise as_api_error(error, param) from None

    @contextmanager
    def under_way(self, requests: Sequence[Request]) -> Iterator[None]:
        """Count these requests as waiting or running in this block."""
        self._under_way |= {request.request_id: request for request in requests}
        try:
            yield
        finally:
            for request in requests:
                del self._under_way[request.request_id]

    async def drain(self, seconds: float) -> int:
        """Take nothing new, let what is under way end, and abort the rest after so many seconds; returns how many."""
        if await self.engine.drain(seconds):
            return 0
        rest = list(self._under_way)
        await self.engine.call(_abort_all, rest)
        await self.engine.drain(ABORT_SECONDS)  # their clients are told
        return len(rest)

    @contextmanager
    def _preparing(self, count: int) -> Iterator[None]:
        self._num_preparing += count
        try:
            yield
        finally:
            self._num_preparing -= count

    def _salt(self, cache_salt: str | None, tenant: str | None) -> str | None:
        if tenant is None or not self.options.cache_salt_from_key:
            return cache_salt
        return hashlib.sha256(f"{tenant}\0{cache_salt or ''}".encode()).hexdigest()


def _abort_all(engine: Engine, request_ids: Sequence[str]) -> None:
    for request_id in request_ids:
        engine.abort(request_id)


def names_of(config: EngineConfig) -> tuple[str, ...]:
    """What clients call the model: `server.served_model_names`, else the name of its weights."""
    if config.server.served_model_names:
        return config.server.served_model_names
    weights = config.model.weights
    if weights is None or isinstance(weights, str):  # demo, random
        return (config.model.name or weights or "model",)
    path = weights.resolve()
    return (path.stem if path.is_file() else path.name,)


def _fingerprint(engine: Engine) -> str:
    """Names what computes the answers, as OpenAI's `system_fingerprint`: the model and this program's version."""
    return f"fp_{hashlib.sha256(f'{version(PACKAGE)} {engine.model_fingerprint}'.encode()).hexdigest()[:10]}"
