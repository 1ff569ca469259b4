"""Bodies of /v1/responses, as OpenAI has them; nothing is stored."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, PlainValidator, WithJsonSchema

from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.serving.errors import bad_request
from mindspore_paged.serving.schemas.answer_format import answer_format
from mindspore_paged.serving.schemas.common import OpenSchema, WholeNumber
from mindspore_paged.tools.answer_forms import CallRules, checked_rules
from mindspore_paged.tools.functions import KEYS
from mindspore_paged.wording import shortened

_TEXTS = ("input_text", "output_text", "text", "refusal")
_ROLES = ("system", "developer", "user", "assistant")


def _input(value: Any) -> str | list[dict[str, Any]]:
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(item, dict) for item in value)):
        return value
    raise ValueError("text, or a list of items")


_INPUT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]}


_TOOL_CHOICE = {
    "anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, {"type": "object"}, {"type": "null"}]
}
_PLACES = {key: key for key in KEYS}


class ResponsesRequest(OpenSchema):
    """What the model is to answer; instructions stand before it as the system's."""

    model: str
    input: Annotated[Any, PlainValidator(_input), WithJsonSchema(_INPUT_SCHEMA)]
    instructions: str | None = None
    max_output_tokens: WholeNumber | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Annotated[Any, WithJsonSchema(_TOOL_CHOICE)] = None
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Annotated[Any, WithJsonSchema({"type": "null"})] = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    truncation: str | None = None
    user: str | None = None

    def prompt(self) -> dict[str, Any]:
        """The chat, as the engine takes it; raises ApiError for what cannot be done."""
        for key in ("previous_response_id", "conversation"):
            if getattr(self, key) is not None:
                raise bad_request(
                    f"{key}: nothing is stored here; give all items in input", key, "unsupported_parameter"
                )
        if self.background:
            raise bad_request("background is not supported by this server", "background", "unsupported_parameter")
        instructions = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return {
            "messages": [*instructions, *self._messages()],
            "tools": None if self.tool_choice == "none" else self._tools(),
        }

    def call_rules(self) -> CallRules | None:
        """What the answer may call; raises RequestError and ApiError for tools that cannot be used."""
        return checked_rules(self._tools(), self.tool_choice, self.parallel_tool_calls, _PLACES)

    def _tools(self) -> list[dict[str, Any]]:
        return [_tool(tool) for tool in self.tools or ()]

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """The parameters, `defaults` where the body says nothing; raises RequestError for values out of range."""
        given = {"max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p, "n": 1}
        given["structured_outputs"] = answer_format({}, (self.text or {}).get("format"), "text.format")
        return replace(defaults, logprobs=None, **{key: value for key, value in given.items() if value is not None})

    def _messages(self) -> list[dict[str, Any]]:
        """The items as messages; an answer's calls belong to one message, with its text."""
        messages: list[dict[str, Any]] = []
        for message in self._each_message():
            if message.get("tool_calls") and messages and messages[-1]["role"] == "assistant":
                calls = [*messages[-1].get("tool_calls", ()), *message["tool_calls"]]
                messages[-1] = messages[-1] | {"tool_calls": calls}
            else:
                messages.append(message)
        return messages

    def _each_message(self) -> Iterator[dict[str, Any]]:
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        for index, item in enumerate(self.input):
            where, kind = f"input[{index}]", item.get("type", "message")
            if kind == "message":
                if item.get("role") not in _ROLES:
                    role, allowed = shortened(item.get("role")), ", ".join(_ROLES)
                    raise bad_request(f"{where}.role is {role}; it must be one of {allowed}", where)
                yield {"role": item["role"], "content": _content(item.get("content"), where)}
            elif kind == "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                yield {"role": "assistant", "content": None, "tool_calls": [call]}
            elif kind == "function_call_output":
                yield {
                    "role": "tool",
                    "tool_call_id": item.get("call_id"),
                    "content": _content(item.get("output"), where),
                }
            elif kind != "reasoning":
                raise bad_request(f"{where} is of type {shortened(kind)}, which is not supported here", where)


def _content(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise bad_request(f"{where}.content is {shortened(content)}; it must be text, or a list of texts", where)
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if kind in _TEXTS else None
        if not isinstance(text, str):
            raise bad_request(f"{where}.content holds {shortened(part)}; the model reads text alone", where)
        parts.append({"type": "text", "text": text})
    return parts


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        raise bad_request(f"tools holds {shortened(tool)}; a tool must be a function with a name", "tools")
    return {"type": "function", "function": {key: tool[key] for key in KEYS if tool.get(key) is not None}}


class OutputText(BaseModel):
    """What the model says."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[dict] = []
    logprobs: list[dict] = []


class OutputMessage(BaseModel):
    """The answer as an item."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningText(BaseModel):
    """What the model thinks."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class ReasoningItem(BaseModel):
    """Thoughts as an item."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    summary: list[dict] = []
    content: list[ReasoningText]


class FunctionCallItem(BaseModel):
    """A call that the model wants to be made, with its arguments as JSON text."""

    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    status: Literal["in_progress", "completed", "incomplete"]
    name: str
    arguments: str


OutputItem = OutputMessage | ReasoningItem | FunctionCallItem


class InputTokensDetails(BaseModel):
    """cached_tokens: of the prompt, found in pages that were computed before."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(BaseModel):
    """Tokens of thoughts are not told apart."""

    reasoning_tokens: int = 0


class ResponsesUsage(BaseModel):
    """Tokens that were counted."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ModelResponse(BaseModel):
    """The answer, with what was asked."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete"]
    background: bool = False
    error: None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None = None
    prompt_cache_key: None = None
    reasoning: dict[str, None] = {"effort": None, "summary": None}
    safety_identifier: None = None
    service_tier: Literal["default"] = "default"
    store: bool = False
    temperature: float
    text: dict[str, Any] = {"format": {"type": "text"}}
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int = 0
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None = None
    user: str | None
