"""Requests are checked when they come in: what can never run is refused at once, in one line."""

from collections.abc import Sequence
from dataclasses import dataclass

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

HIGHEST_PRIORITY = 100
"""Priorities go from minus this to this: waiting makes up for a difference, so differences must be bounded."""


@dataclass(frozen=True)
class ModelLimits:
    """What a request is checked against: token ids below vocab_size, at most max_model_len tokens in a sequence."""

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...] = ()


def token_ids_of(prompt: str | Sequence[int], tokenizer: Tokenizer | None) -> list[int]:
    """The prompt's token ids; raises RequestError for text without a tokenizer."""
    if not isinstance(prompt, str):
        return list(prompt)
    if tokenizer is None:
        raise RequestError("the prompt is text, but this model has no tokenizer; give token ids")
    return tokenizer.encode(prompt)


def check_prompt(token_ids: list[int], limits: ModelLimits) -> None:
    """Raise RequestError for a prompt that is empty, too long, or holds what is no token of the model."""
    if not token_ids:
        raise RequestError("the prompt is empty; at least one token is needed")
    if not all(type(token_id) is int for token_id in token_ids):
        raise RequestError("prompt_token_ids must be a list of whole numbers")
    worst = min(token_ids) if min(token_ids) < 0 else max(token_ids)
    if not 0 <= worst < limits.vocab_size:
        raise RequestError(f"prompt token {worst} is no token of this model; allowed: 0..{limits.vocab_size - 1}")
    if len(token_ids) >= limits.max_model_len:
        raise RequestError(
            f"the prompt has {len(token_ids)} tokens; max_model_len {limits.max_model_len} leaves no room for an answer"
        )


def check_options(params: SamplingParams, priority: int, tokenizer: Tokenizer | None) -> None:
    """Raise RequestError for stop strings without a tokenizer, or a priority out of bounds."""
    if params.stop and tokenizer is None:
        raise RequestError(f"stop is {list(params.stop)}; stop strings need a tokenizer, and this model has none")
    if type(priority) is not int or not -HIGHEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise RequestError(
            f"priority is {priority!r}; it must be a whole number from {-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
        )
