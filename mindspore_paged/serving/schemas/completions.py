"""Bodies of /v1/completions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.serving.errors import bad_request
from mindspore_paged.serving.schemas.common import MAX_LOGPROBS, OptionalIds, SamplingFields, Usage, WholeNumber

MAX_PROMPTS = 1024
"""Prompts of one body."""

Prompt = str | list[int]

_TEXT = {"type": "string"}
_IDS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        _TEXT,
        _IDS,
        *({"type": "array", "items": each, "minItems": 1, "maxItems": MAX_PROMPTS} for each in (_TEXT, _IDS)),
    ]
}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _prompts(value: Any) -> list[Prompt]:
    if isinstance(value, str) or _is_ids(value):
        return [value]
    if isinstance(value, list) and value:
        if len(value) > MAX_PROMPTS:
            raise ValueError(f"{MAX_PROMPTS} prompts at most")
        if all(isinstance(prompt, str) for prompt in value) or all(map(_is_ids, value)):
            return value
    raise ValueError("text, a list of token ids, or a list of one of these")


Prompts = Annotated[Any, PlainValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
"""One prompt or several, as a list of them: each text, or token ids."""


class CompletionRequest(SamplingFields):
    """Prompts that the model is to go on from.

    echo: each answer begins with its prompt; with max_tokens 0 it has nothing else.
    """

    prompt: Prompts
    logprobs: Annotated[WholeNumber, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """Each prompt: text, or token ids."""
        return self.prompt

    @property
    def is_prompt_alone(self) -> bool:
        """Whether the answer is the prompt, with its log-probabilities if asked for, and no token behind it."""
        return self.max_tokens == 0 and bool(self.echo) and not self.use_beam_search

    def sampling_params(self, defaults: SamplingParams, **others: Any) -> SamplingParams | BeamSearchParams:
        """See `SamplingFields.sampling_params`."""
        if self.echo and self.logprobs is not None:
            others["prompt_logprobs"] = self.logprobs
        if self.is_prompt_alone:
            if self.min_tokens:
                raise bad_request(f"min_tokens is {self.min_tokens}; it must be 0 where max_tokens is", "min_tokens")
            others |= {"max_tokens": 1, "min_tokens": 0}  # as vLLM: one token is sampled, of which nobody is told
        return super().sampling_params(defaults, logprobs=self.logprobs, **others)


class CompletionLogprobs(BaseModel):
    """One entry a token, null for the first of a prompt; text_offset: where it begins, in characters of the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of n answers to one of the prompts, or a piece of it; index: the prompt's, times n, plus the answer's."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    token_ids: OptionalIds
    prompt_token_ids: OptionalIds


class Completion(BaseModel):
    """The answers, or an event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str
