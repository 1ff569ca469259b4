"""What a beam search is asked for; names as in vLLM."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.wording import shortened

MAX_LENGTH_PENALTY = 16
"""Scores stay finite: the longest answer to this power is a float."""

_SHARED = ("max_tokens", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
_UNUSED = ("seed",)
"""Of SamplingParams what is as good as kept: equal requests have equal answers without it."""


@dataclass(frozen=True)
class BeamSearchParams:
    """How many beams are kept, and when their search ends; raises RequestError for a value out of range.

    The rules are those of transformers' generate(num_beams=beam_width, do_sample=False): see `BeamSearch`. vLLM divides
    by another length, that of the prompt and the answer without its end-of-sequence token, and goes on to max_tokens.

    beam_width: beams that are kept at each length, and answers that the search ends with.
    max_tokens: tokens of a beam at most; None means up to max_model_len.
    ignore_eos: no token ends a beam before it has max_tokens.
    temperature: 0 or 1, which ask for the same: beams are compared by the model's own probabilities.
    length_penalty: a beam's score is the sum of its tokens' log-probabilities over its length, with the token that
        ends it, to this power: above 0 favours long answers. From -16 to 16.
    include_stop_str_in_output: the text ends behind the text of the token that ends it.
    early_stopping: transformers'. False: the search ends when no beam that goes on would be among the finished ones if
        it ended at once; true: when there are beam_width finished ones; `never`: when no beam could come to be among
        them at its best length.
    n: answers that are told, the best of the beam_width; None tells all.
    skip_special_tokens: special tokens have no text.
    """

    beam_width: int
    max_tokens: int | None
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    early_stopping: bool | Literal["never"] = False
    n: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self):
        width, penalty = self.beam_width, self.length_penalty
        self._require("beam_width", "a whole number, at least 1", type(width) is int and width >= 1)
        is_number = isinstance(penalty, (int, float)) and not isinstance(penalty, bool)
        is_bounded = is_number and abs(penalty) <= MAX_LENGTH_PENALTY and math.isfinite(penalty)
        bounds = f"a number from -{MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}"
        self._require("length_penalty", bounds, is_bounded)
        is_neutral = not isinstance(self.temperature, bool) and self.temperature in (0, 1)
        self._require("temperature", "0 or 1 in a beam search, which draws nothing", is_neutral)
        is_known = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        self._require("early_stopping", "true, false or 'never'", is_known)
        is_part = self.n is None or (type(self.n) is int and 1 <= self.n <= width)
        self._require("n", f"from 1 to beam_width ({width}), or none", is_part)
        self.of_beams()  # checks what it has of these

    def of_beams(self) -> SamplingParams:
        """What each beam is as a sequence; `n` of them are told."""
        return SamplingParams(n=self.n or self.beam_width, **{key: getattr(self, key) for key in _SHARED})

    def _require(self, name: str, allowed: str, holds: bool):
        if not holds:
            raise RequestError(f"{name} is {shortened(getattr(self, name))}; it must be {allowed}")


def defaults_for_beams(defaults: SamplingParams, **given: Any) -> SamplingParams:
    """Of a configuration's `sampling` what means something to a beam search, changed by what a user gave."""
    return SamplingParams(**{key: getattr(defaults, key) for key in _SHARED} | given)


def beam_search_params(params: SamplingParams, beam_width: int, **keys: Any) -> BeamSearchParams:
    """A beam search in place of sampling; raises RequestError for a key of `params` that would be without effect.

    params: of `defaults_for_beams`. keys: what else BeamSearchParams has, `n` too.
    """
    neutral = replace(SamplingParams(), temperature=params.temperature)
    for field in fields(SamplingParams):
        name = field.name
        value = getattr(params, name)
        if name in (*_SHARED, *_UNUSED) or value == getattr(neutral, name) or (name == "top_k" and value == -1):
            continue
        raise RequestError(f"{name} is {shortened(value)}; a beam search takes no {name}")
    return BeamSearchParams(
        beam_width, temperature=params.temperature, **{key: getattr(params, key) for key in _SHARED}, **keys
    )
