"""From what a user asks for to a request that can be queued, checked: what can never run is refused here."""

import itertools
from collections.abc import Sequence as SequenceOf
from functools import partial
from time import perf_counter

from mindspore_paged.engine.requests.beam_group import BeamGroup
from mindspore_paged.engine.requests.constraints import Constraints
from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.requests.dry_breakers import DryBreakers
from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.engine.requests.pooling import checked_pooling
from mindspore_paged.engine.requests.prompt_truncation import cut_prompt, most_prompt_tokens
from mindspore_paged.engine.requests.request_check import (
    ModelLimits,
    check_beam_search,
    check_embeds,
    check_logit_bias,
    check_prompt,
    check_prompt_logprobs,
    checked_cache_salt,
    checked_priority,
    resolved_stop_token_ids,
    token_ids_of,
)
from mindspore_paged.engine.requests.rules import token_rules
from mindspore_paged.engine.requests.sequence import Request, Sequence
from mindspore_paged.sampling.beam_search import BeamSearch
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.logits_processors import resolved_processors
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer


class RequestMaker:
    """Makes requests to one model; several threads may call it.

    tokenizer: None if prompts are given as token ids. lora: the adapters that they may ask for; None: there are none.
    """

    def __init__(self, tokenizer: Tokenizer | None, limits: ModelLimits, lora: LoraAdapters | None = None):
        self.tokenizer = tokenizer
        self._lora = lora or LoraAdapters(None)
        self.limits = limits
        self._constraints = Constraints(tokenizer, limits)
        self._dry = DryBreakers(tokenizer)
        self._arrivals = itertools.count()

    def make(
        self,
        prompt: str | SequenceOf[int],
        params: SamplingParams | BeamSearchParams,
        request_id: str | None = None,
        priority: int = 0,
        request_class: str | None = None,
        cache_salt: str | None = None,
        pooling: str | None = None,
        lora_adapter: str | None = None,
    ) -> Request:
        """A request with its sequences; raises RequestError that says what is wrong. See `Request`."""
        tokenizer, limits = self.tokenizer, self.limits
        beam_search = params if isinstance(params, BeamSearchParams) else None
        if beam_search is not None:
            check_beam_search(beam_search, limits)
            params = beam_search.of_beams()
        if pooling is not None:
            check_embeds(limits)
            pooling = checked_pooling(pooling)
        cuts = params.truncate_prompt_tokens is not None
        token_ids = token_ids_of(prompt, tokenizer, limits, will_be_cut=cuts)
        text = prompt if isinstance(prompt, str) else None
        if cuts:
            text, token_ids = cut_prompt(text, token_ids, most_prompt_tokens(params, limits), tokenizer)
        check_prompt(token_ids, limits, has_answer=pooling is None)
        check_logit_bias(params, limits)
        check_prompt_logprobs(params, limits)
        priority = checked_priority(priority)
        stop_token_ids = resolved_stop_token_ids(params, tokenizer, limits)
        is_answered = pooling is None
        arrival = next(self._arrivals)
        request = Request(
            request_id=request_id or f"request-{arrival}",
            arrival=arrival,
            prompt=text,
            prompt_token_ids=token_ids,
            params=params,
            stop_token_ids=stop_token_ids,
            arrival_time=perf_counter(),
            priority=priority,
            request_class=request_class,
            cache_salt=checked_cache_salt(cache_salt),
            adapter=self._lora.find(lora_adapter),
            pooling=pooling,
            constraint=self._constraints.of(params) if is_answered else None,
            rules=token_rules(params, stop_token_ids, tokenizer, limits) if is_answered else None,
            dry=self._dry.penalty(params, token_ids) if is_answered else None,
            processors=resolved_processors(params.logits_processors) if is_answered else (),
        )
        num_sequences = params.n if beam_search is None else beam_search.beam_width
        request.sequences = [
            Sequence(request, index, self._detokenizer(params, token_ids)) for index in range(num_sequences)
        ]
        if beam_search is not None:
            request.beams = self._beams(beam_search, request)
        return request

    def _beams(self, params: BeamSearchParams, request: Request) -> BeamGroup:
        room = self.limits.max_model_len - len(request.prompt_token_ids)
        max_length = room if params.max_tokens is None else min(room, params.max_tokens)
        search = BeamSearch(params, self.limits.eos_token_ids, max_length)
        make_detokenizer = partial(self._detokenizer, request.params, request.prompt_token_ids)
        return BeamGroup(search, request.sequences, make_detokenizer)

    def _added_tokens(self) -> dict[int, str]:
        return self.tokenizer.added_tokens if self.tokenizer is not None else {}

    def _detokenizer(self, params: SamplingParams, token_ids: list[int]) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(
            self.tokenizer.backend if self.tokenizer is not None else None,
            params.stop,
            token_ids,
            skip_special_tokens=params.skip_special_tokens,
            joined_tokens=None if params.spaces_between_special_tokens else self._added_tokens(),
            include_stop=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
        )
