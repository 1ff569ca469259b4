"""Requests are checked when they come in: what can never run is refused at once, in one line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer
from mindspore_paged.wording import is_unicode, shortened

HIGHEST_PRIORITY = 100
"""Priorities go from minus this to this: waiting makes up for a difference, so differences must be bounded."""


MAX_CACHE_SALT = 1024
"""Characters: a salt is kept with its request."""


@dataclass(frozen=True)
class ModelLimits:
    """What a request is checked against: token ids below vocab_size, at most max_model_len tokens in a sequence.

    embedding_size: numbers of an embedding; None where the engine gives none.
    cuts_prompts: whether a prompt may be computed in chunks.
    max_num_seqs: sequences that run at once; None: any number.
    """

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...] = ()
    embedding_size: int | None = None
    cuts_prompts: bool = True
    max_num_seqs: int | None = None


def token_ids_of(
    prompt: str | Sequence[int] | np.ndarray,
    tokenizer: Tokenizer | None,
    limits: ModelLimits,
    will_be_cut: bool = False,
) -> list[int]:
    """The prompt's token ids, NumPy's as Python's; raises RequestError for text without a tokenizer, or too long.

    will_be_cut: no text is too long.
    """
    if isinstance(prompt, np.ndarray):
        return np.atleast_1d(prompt).tolist()
    if not isinstance(prompt, str):
        return [int(token) if isinstance(token, np.integer) else token for token in prompt]
    if tokenizer is None:
        raise RequestError("the prompt is text, but this model has no tokenizer; give token ids")
    return tokenizer.encode(prompt, most_tokens=None if will_be_cut else limits.max_model_len)


def check_prompt(token_ids: list[int], limits: ModelLimits, has_answer: bool = True) -> None:
    """Raise RequestError for a prompt that is empty, too long, or holds what is no token of the model.

    has_answer: one token at least is to come behind it.
    """
    if not token_ids:
        raise RequestError("the prompt is empty; at least one token is needed")
    if not all(type(token_id) is int for token_id in token_ids):
        raise RequestError("prompt_token_ids must be a list of whole numbers")
    worst = min(token_ids) if min(token_ids) < 0 else max(token_ids)
    if not 0 <= worst < limits.vocab_size:
        raise RequestError(f"prompt token {worst} is no token of this model; allowed: 0..{limits.vocab_size - 1}")
    if len(token_ids) >= limits.max_model_len + (not has_answer):
        reason = "leaves no room for an answer" if has_answer else "is the most"
        raise RequestError(f"the prompt has {len(token_ids)} tokens; max_model_len {limits.max_model_len} {reason}")


def check_embeds(limits: ModelLimits) -> None:
    """Raise RequestError if the engine gives no embeddings."""
    if limits.embedding_size is None:
        raise RequestError("this engine gives no embeddings; it does with runtime.embeddings: true")


def check_prompt_logprobs(params: SamplingParams, limits: ModelLimits) -> None:
    """Raise RequestError where chunks cannot be as small as the rows of logits are few."""
    if params.prompt_logprobs is not None and not limits.cuts_prompts:
        raise RequestError("prompt_logprobs needs scheduler.enable_chunked_prefill: true")


def check_beam_search(params: BeamSearchParams, limits: ModelLimits) -> None:
    """Raise RequestError for more beams than run at once, or than the vocabulary has continuations for."""
    width = params.beam_width
    if limits.max_num_seqs is not None and width > limits.max_num_seqs:
        raise RequestError(
            f"beam_width is {width}; it must be at most scheduler.max_num_seqs ({limits.max_num_seqs}): "
            f"each beam is a sequence"
        )
    num_ends = 0 if params.ignore_eos else len(limits.eos_token_ids)
    most = limits.vocab_size // max(2, 1 + num_ends)
    if width > most:
        raise RequestError(f"beam_width is {width}; a vocabulary of {limits.vocab_size} tokens allows at most {most}")


def checked_priority(priority: int | np.integer) -> int:
    """The priority; raises RequestError where it is out of bounds."""
    if isinstance(priority, np.integer):
        priority = int(priority)
    if type(priority) is not int or not -HIGHEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise RequestError(
            f"priority is {shortened(priority)}; it must be a whole number from "
            f"{-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
        )
    return priority


def checked_cache_salt(cache_salt: str | None) -> str | None:
    """The salt; raises RequestError for what is no text, or has no or too many characters."""
    is_text = isinstance(cache_salt, str) and is_unicode(cache_salt)
    if cache_salt is not None and not (is_text and 1 <= len(cache_salt) <= MAX_CACHE_SALT):
        raise RequestError(
            f"cache_salt is {shortened(cache_salt)}; it must be text of 1 to {MAX_CACHE_SALT} characters, or none"
        )
    return cache_salt


def check_logit_bias(params: SamplingParams, limits: ModelLimits) -> None:
    """Raise RequestError for a bias of what is no token of the model."""
    for token_id in (pair[0] for pair in (*params.logit_bias[:1], *params.logit_bias[-1:])):  # in order of ids
        if not 0 <= token_id < limits.vocab_size:
            raise RequestError(
                f"logit_bias is given for token {shortened(token_id)}, which is no token of this model; "
                f"allowed: 0..{limits.vocab_size - 1}"
            )


def resolved_stop_token_ids(params: SamplingParams, tokenizer: Tokenizer | None, limits: ModelLimits) -> frozenset[int]:
    """The tokens that end a text: `params.stop_token_ids`, and stop strings that are special tokens.

    Special tokens are left out of the text, so they can only be known by their ids. Raises RequestError for what can
    never end a text: a string without a tokenizer, or with a special token among other characters, or a foreign id.
    """
    if params.stop and tokenizer is None:
        raise RequestError(f"stop is {list(params.stop)}; stop strings need a tokenizer, and this model has none")
    token_ids = set(params.stop_token_ids)
    special_tokens = tokenizer.special_tokens if params.stop and params.skip_special_tokens else {}
    for text in params.stop:
        if text in special_tokens:
            token_ids.add(special_tokens[text])
        elif inside := next((token for token in special_tokens if token and token in text), None):
            raise RequestError(
                f"stop is {shortened(text)}, which never comes: the special token {shortened(inside)} is left out "
                f"of the text; stop at that token alone"
            )
    for token_id in token_ids:
        if not 0 <= token_id < limits.vocab_size:
            raise RequestError(f"stop token {token_id} is no token of this model; allowed: 0..{limits.vocab_size - 1}")
    return frozenset(token_ids)
