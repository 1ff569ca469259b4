"""Bodies of /v1/messages, as Anthropic has them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.serving.errors import bad_request
from mindspore_paged.serving.schemas.common import OpenSchema, TextOrParts, WholeNumber
from mindspore_paged.tools.answer_forms import CallRules, checked_rules
from mindspore_paged.wording import shortened

_CHOICES = {"auto": "auto", "any": "required", "tool": None, "none": "none"}
_THINKING = {"enabled": True, "adaptive": None, "disabled": False}
_PLACES = {"name": "name", "description": "description", "parameters": "input_schema", "strict": "strict"}


class InputMessage(OpenSchema):
    """A turn: text, or blocks of text, of calls of tools and of what these gave."""

    role: Literal["user", "assistant"]
    content: TextOrParts


class AnthropicTool(OpenSchema):
    """A function that the model may call; input_schema: JSON schema of its arguments, which it is held to."""

    name: str
    strict: bool | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class CountTokensRequest(OpenSchema):
    """A chat whose tokens are to be counted."""

    model: str
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: TextOrParts = None
    tools: list[AnthropicTool] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None

    def prompt(self) -> dict[str, Any]:
        """The chat, as the engine takes it; raises ApiError for what cannot be done.

        Where the last turn is the assistant's, the answer goes on with it.
        """
        thinks = self.thinks
        return {
            "messages": [*self._system(), *self._turns()],
            "tools": None if (self.tool_choice or {}).get("type") == "none" else self._tools(),
            "continue_final_message": self.messages[-1].role == "assistant",
            "chat_template_kwargs": None if thinks is None else {"enable_thinking": thinks},
        }

    @property
    def thinks(self) -> bool | None:
        """Whether the model is to think first; None where that is not said. Raises ApiError for what says neither."""
        kind = None if self.thinking is None else self.thinking.get("type")
        if self.thinking is not None and kind not in _THINKING:
            allowed = ", ".join(_THINKING)
            raise bad_request(f"thinking is of type {shortened(kind)}; it must be one of {allowed}", "thinking")
        return _THINKING.get(kind)

    def call_rules(self) -> CallRules | None:
        """What the answer may call; raises RequestError and ApiError for tools that cannot be used."""
        choice = self.tool_choice or {"type": "auto"}
        kind = choice.get("type")
        if kind not in _CHOICES:
            allowed = ", ".join(_CHOICES)
            raise bad_request(f"tool_choice is of type {shortened(kind)}; it must be one of {allowed}", "tool_choice")
        named = {"type": "function", "name": choice.get("name")}
        parallel = choice.get("disable_parallel_tool_use") is not True
        return checked_rules(self._tools(), named if kind == "tool" else _CHOICES[kind], parallel, _PLACES)

    def _tools(self) -> list[dict[str, Any]]:
        return [_tool(tool) for tool in self.tools or ()]

    def _system(self) -> Iterator[dict[str, Any]]:
        if self.system:
            texts = [_text_of(block, f"system[{index}]") for index, block in enumerate(_blocks(self.system))]
            yield {"role": "system", "content": "\n".join(texts)}

    def _turns(self) -> Iterator[dict[str, Any]]:
        for number, message in enumerate(self.messages):
            parts, calls = [], []
            for index, block in enumerate(_blocks(message.content)):
                where = f"messages[{number}].content[{index}]"
                if block.get("type") == "tool_use" and message.role == "assistant":
                    calls.append(_call(block, where))
                elif block.get("type") == "tool_result" and message.role == "user":
                    yield _result(block, where)
                elif block.get("type") not in ("thinking", "redacted_thinking"):
                    parts.append({"type": "text", "text": _text_of(block, where)})
            if calls:
                yield {"role": message.role, "content": parts or None, "tool_calls": calls}
            elif parts or message.role == "assistant":
                yield {"role": message.role, "content": parts}


class MessagesRequest(CountTokensRequest):
    """A chat that the model is to answer."""

    max_tokens: WholeNumber
    temperature: float | None = None
    top_p: float | None = None
    top_k: WholeNumber | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """The parameters, `defaults` where the body says nothing; raises RequestError for values out of range."""
        given = {key: getattr(self, key) for key in ("max_tokens", "temperature", "top_p", "top_k")}
        given |= {"stop": self.stop_sequences, "n": 1}
        return replace(defaults, logprobs=None, **{key: value for key, value in given.items() if value is not None})


def _blocks(content: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def _text_of(block: dict[str, Any], where: str) -> str:
    if block.get("type") != "text" or not isinstance(block.get("text"), str):
        raise bad_request(f"{where} is of type {shortened(block.get('type'))}; the model reads text alone", where)
    return block["text"]


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    function |= {"strict": tool.strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(block.get("name"), str) or not isinstance(block.get("input"), dict):
        raise bad_request(f"{where} is no call of a tool; it must have name and input", where)
    function = {"name": block["name"], "arguments": block["input"]}
    return {"id": block.get("id"), "type": "function", "function": function}


def _result(block: dict[str, Any], where: str) -> dict[str, Any]:
    content = block.get("content")
    if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in _blocks(content)):
        raise bad_request(f"{where}.content is {shortened(content)}; it must be text, or blocks of text", where)
    texts = [_text_of(part, f"{where}.content[{index}]") for index, part in enumerate(_blocks(content))]
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": "\n".join(texts)}


class TextBlock(BaseModel):
    """What the model says."""

    type: Literal["text"] = "text"
    text: str
    citations: None = None


class ThinkingBlock(BaseModel):
    """What the model thinks before; nothing is signed."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class ToolUseBlock(BaseModel):
    """A call that the model wants to be made."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


class AnthropicUsage(BaseModel):
    """Tokens that were counted; input_tokens: of the prompt, but for those that were in the cache.

    Those that are None have no meaning here, and must be there.
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_creation: None = None
    inference_geo: None = None
    output_tokens_details: None = None
    server_tool_use: None = None
    service_tier: None = None


class AnswerOfMessages(BaseModel):
    """A chat's answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    model: str
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None = None
    stop_details: None = None
    container: None = None
    usage: AnthropicUsage


class TokenCount(BaseModel):
    """Tokens of a prompt."""

    input_tokens: int
