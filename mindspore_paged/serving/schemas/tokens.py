"""Bodies of /tokenize, /detokenize and /tokenizer_info, as vLLM has them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from mindspore_paged.serving.schemas.chat import ChatMessage
from mindspore_paged.serving.schemas.common import OpenSchema, WholeNumber


class TokenizeRequest(OpenSchema):
    """A prompt, or messages that go through the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class TokenizeResponse(BaseModel):
    """Token ids, and their names in the vocabulary if these were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = None


class DetokenizeRequest(OpenSchema):
    """Token ids that are to become text."""

    model: str | None = None
    tokens: list[Annotated[WholeNumber, Field(json_schema_extra={"minimum": 0})]]


class DetokenizeResponse(BaseModel):
    """The text."""

    prompt: str


class TokenizerInfo(BaseModel):
    """What clients that count and cut tokens by this server have to know of its tokenizer.

    Names are those of tokenizer_config.json; eos_token: the first of those that end a text. chat_template: the Jinja
    text, that for chats with tools where the model has one of its own for them. None is what the model does not have.
    """

    tokenizer_class: str = "PreTrainedTokenizerFast"
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None
