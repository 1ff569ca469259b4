"""From a chat with tools to a request whose answer is held to them, and what reads that answer."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.structured_outputs import StructuredOutputs
from mindspore_paged.serving.errors import as_api_error
from mindspore_paged.serving.service import Service
from mindspore_paged.tools.answer_forms import CallRules
from mindspore_paged.tools.answer_parser import AnswerParser
from mindspore_paged.tools.pieces import Block, Parts, add_piece

MakeParser = Callable[[], AnswerParser | None]


async def prepare_chat(
    service: Service,
    chat: dict[str, Any],
    params: SamplingParams | BeamSearchParams,
    rules: CallRules | None,
    *,
    param: str = "messages",
    **admission: Any,
) -> tuple[Request, MakeParser]:
    """A checked request for an answer to a chat, and what makes a parser for each of its answers.

    rules: for calls in the answer, None for an answer without. admission: as `Service.prepare` takes it.
    Raises ApiError where it cannot be run, or not now.
    """
    forms = service.answer_forms
    own_form = params.structured_outputs if isinstance(params, SamplingParams) else None
    shown = replace(params, skip_special_tokens=False) if forms.shows_special_tokens(rules) else params
    if rules is None and (own_form is None or forms.thoughts is None):
        (request,) = await service.prepare([chat], shown, param=param, **admission)
        return request, partial(forms.parser, None, forms.opens_thoughts(request.prompt_token_ids))
    # What holds the answer must know whether the prompt begins thoughts, before there is a request.
    token_ids = await service.encoded_chat(chat, param)
    opened = forms.opens_thoughts(token_ids)
    try:
        grammar = await asyncio.to_thread(forms.grammar, rules, opened, own_form)
    except RequestError as error:
        raise as_api_error(error, "tools") from None
    if grammar is None and own_form is not None:  # it says the whole answer: no thoughts and no calls are in it
        held, make_parser = params, _without_parser
    else:
        held = shown if grammar is None else replace(shown, structured_outputs=StructuredOutputs(grammar=grammar))
        make_parser = partial(forms.parser, rules, opened, held is not shown)
    (request,) = await service.prepare([{"prompt_token_ids": token_ids}], held, param=param, **admission)
    return request, make_parser


def parts_of(parser: AnswerParser | None, text: str) -> Parts:
    """A whole answer taken apart; without a parser all of it is content."""
    return Parts(content=text) if parser is None else Parts().add(parser.feed(text)).add(parser.finish())


def blocks_of(parser: AnswerParser, text: str) -> list[Block]:
    """A whole answer as blocks, in their order; one without text where there is nothing."""
    blocks: list[Block] = []
    for piece in (*parser.feed(text), *parser.finish()):
        add_piece(blocks, piece)
    return blocks or [Block("content", "")]


def new_call_id() -> str:
    """An id for a call, in OpenAI's form."""
    return f"call_{uuid.uuid4().hex[:24]}"


def _without_parser() -> None:
    return None
