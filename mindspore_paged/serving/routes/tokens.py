"""POST /tokenize and /detokenize, GET /tokenizer_info."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from mindspore_paged.engine.requests.prompt_forms import text_or_token_ids
from mindspore_paged.serving.errors import ERRORS, bad_request
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.schemas.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from mindspore_paged.serving.service import Service
from mindspore_paged.tokenizer import Tokenizer

router = APIRouter(route_class=JsonRoute, tags=["tokens"])


@router.post("/tokenize", responses=ERRORS)
async def tokenize(http: Request, body: TokenizeRequest) -> TokenizeResponse:
    """The token ids of a prompt, or of messages through the chat template."""
    service, tokenizer = _service_and_tokenizer(http, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give prompt or messages, one of them", "prompt")
    token_ids = await run_in_threadpool(_token_ids, service, tokenizer, body)
    names = [tokenizer.backend.id_to_token(token) for token in token_ids] if body.return_token_strs else None
    return TokenizeResponse(
        count=len(token_ids),
        max_model_len=service.engine.limits.max_model_len,
        tokens=token_ids,
        token_strs=names,
    )


@router.post("/detokenize", responses=ERRORS)
async def detokenize(http: Request, body: DetokenizeRequest) -> DetokenizeResponse:
    """The text of token ids, special tokens included."""
    service, tokenizer = _service_and_tokenizer(http, body.model)
    vocab_size, longest = service.engine.limits.vocab_size, service.engine.limits.max_model_len
    if len(body.tokens) > longest:
        raise bad_request(f"tokens holds {len(body.tokens)} tokens; max_model_len {longest} are allowed", "tokens")
    for token in body.tokens:
        if not 0 <= token < vocab_size:
            raise bad_request(f"tokens holds {token:.6g}; allowed: 0..{vocab_size - 1}", "tokens")
    text = await run_in_threadpool(tokenizer.decode, body.tokens, skip_special_tokens=False)
    return DetokenizeResponse(prompt=text)


@router.get("/tokenizer_info", responses=ERRORS)
async def tokenizer_info(http: Request) -> TokenizerInfo:
    """What is to be known of the tokenizer by who uses it through this server, as lm-eval does."""
    service, tokenizer = _service_and_tokenizer(http, None)
    eos_token_id = next(iter(tokenizer.eos_token_ids), None)
    return TokenizerInfo(
        model_max_length=service.engine.limits.max_model_len,
        bos_token=_name(tokenizer, tokenizer.bos_token_id),
        eos_token=_name(tokenizer, eos_token_id),
        chat_template=tokenizer.template_with_tools or None,
    )


def _name(tokenizer: Tokenizer, token_id: int | None) -> str | None:
    return None if token_id is None else tokenizer.backend.id_to_token(token_id)


def _service_and_tokenizer(http: Request, model: str | None) -> tuple[Service, Tokenizer]:
    service: Service = http.app.state.service
    service.checked_model(model)
    if service.engine.tokenizer is None:
        raise bad_request("this model has no tokenizer; it takes and gives token ids", code="no_tokenizer")
    return service, service.engine.tokenizer


def _token_ids(service: Service, tokenizer: Tokenizer, body: TokenizeRequest) -> list[int]:
    longest = service.engine.limits.max_model_len
    if body.messages is None:
        return tokenizer.encode(body.prompt, body.add_special_tokens is not False, longest)
    chat = {
        "messages": [message.model_dump(exclude_unset=True) for message in body.messages],
        "tools": body.tools,
        "chat_template_kwargs": body.chat_template_kwargs,
        "add_generation_prompt": body.add_generation_prompt,
        "continue_final_message": body.continue_final_message,
    }
    return text_or_token_ids(chat, tokenizer, service.engine.config.model.chat_template_kwargs, longest)
