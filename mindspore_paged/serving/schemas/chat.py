"""Bodies of /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.serving.errors import bad_request
from mindspore_paged.serving.schemas.common import (
    LEFT_OUT_IF_NONE,
    MAX_LOGPROBS,
    OpenSchema,
    OptionalIds,
    SamplingFields,
    Usage,
    WholeNumber,
)
from mindspore_paged.tools.answer_forms import CallRules, checked_rules

_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "object", "required": ["type"]}},
        {"type": "null"},
    ],
    "description": "text, a list of text parts, or null beside tool_calls",
}


_TOOL_CHOICE = {
    "anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, {"type": "object"}, {"type": "null"}],
    "description": "whether the model calls functions, or must; the function that it must call",
}


class ChatMessage(OpenSchema):
    """A message; the tokenizer checks what else it holds before the model's chat template sees it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Any, WithJsonSchema(_CONTENT)] = None


class ChatCompletionRequest(SamplingFields):
    """A chat that the model is to answer.

    tools: functions that the model may call, tool_choice: whether it does, parallel_tool_calls: several at once.
    continue_final_message: go on where the last message ends.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: WholeNumber | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[WholeNumber, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Annotated[Any, WithJsonSchema(_TOOL_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def prompt(self) -> dict[str, Any]:
        """The chat, as the engine takes it; raises ApiError for what cannot be done."""
        return {
            "messages": [message.model_dump(exclude_unset=True) for message in self.messages],
            "tools": None if self.tool_choice == "none" else self.tools,
            "chat_template_kwargs": self.chat_template_kwargs,
            "add_generation_prompt": self.add_generation_prompt,
            "continue_final_message": self.continue_final_message,
        }

    def call_rules(self) -> CallRules | None:
        """What the answer may call; raises RequestError for tools that cannot be used."""
        return checked_rules(self.tools, self.tool_choice, self.parallel_tool_calls)

    def sampling_params(self, defaults: SamplingParams, **others: Any) -> SamplingParams | BeamSearchParams:
        """See `SamplingFields.sampling_params`."""
        if self.top_logprobs is not None and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")
        if self.use_beam_search and self.call_rules() is not None:
            raise bad_request("tools cannot be called by a beam search; leave them or use_beam_search out", "tools")
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise bad_request("give max_completion_tokens or max_tokens, not both", "max_tokens")
            others["max_tokens"] = self.max_completion_tokens
        return super().sampling_params(defaults, logprobs=(self.top_logprobs or 0) if self.logprobs else None, **others)


class TopLogprob(BaseModel):
    """A token that might have been; bytes: its UTF-8, also where that is part of a character only."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer, and the most likely ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry a token."""

    content: list[TokenLogprob] | None
    refusal: None = None


class CalledFunction(BaseModel):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the model wants to be made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(BaseModel):
    """What the model says, thinks, and calls; content: None beside one of these where there is no text."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: Annotated[str | None, LEFT_OUT_IF_NONE]
    tool_calls: Annotated[list[ToolCall] | None, LEFT_OUT_IF_NONE]
    refusal: None = None
    annotations: list[Any] = []


class ChatChoice(BaseModel):
    """One of n answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]
    token_ids: OptionalIds


class ChatCompletion(BaseModel):
    """A chat's answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    prompt_token_ids: OptionalIds


class FunctionDelta(BaseModel):
    """A function's name, then pieces of its arguments."""

    name: Annotated[str | None, LEFT_OUT_IF_NONE]
    arguments: str


class ToolCallDelta(BaseModel):
    """What the call of this index begins with, or goes on by."""

    index: int
    id: Annotated[str | None, LEFT_OUT_IF_NONE]
    type: Annotated[Literal["function"] | None, LEFT_OUT_IF_NONE]
    function: FunctionDelta


class Delta(BaseModel):
    """What an answer goes on by."""

    role: Annotated[Literal["assistant"] | None, LEFT_OUT_IF_NONE]
    content: Annotated[str | None, LEFT_OUT_IF_NONE]
    reasoning_content: Annotated[str | None, LEFT_OUT_IF_NONE]
    tool_calls: Annotated[list[ToolCallDelta] | None, LEFT_OUT_IF_NONE]


class ChatChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    token_ids: OptionalIds


class ChatChunk(BaseModel):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str
    prompt_token_ids: OptionalIds
