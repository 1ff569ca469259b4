"""The tokens that a request forbids, found where the model and its tokenizer are known."""

import numpy as np

from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.token_rules import TokenRules
from mindspore_paged.tokenizer import Tokenizer


def token_rules(
    params: SamplingParams, stop_token_ids: frozenset[int], tokenizer: Tokenizer | None, limits: ModelLimits
) -> TokenRules | None:
    """What min_tokens, allowed_token_ids and bad_words forbid; None where they forbid nothing.

    stop_token_ids: those of the request. Raises RequestError for what is no token, for words without a tokenizer, and
    for min_tokens beside structured_outputs, whose end cannot wait.
    """
    if not params.min_tokens and params.allowed_token_ids is None and not params.bad_words:
        return None
    if params.min_tokens and params.structured_outputs is not None:
        raise RequestError(f"min_tokens is {params.min_tokens}; beside structured_outputs it must be 0")
    ends = stop_token_ids if params.ignore_eos else stop_token_ids.union(limits.eos_token_ids)
    return TokenRules(
        _allowed(params, limits),
        _bad_words(params, tokenizer),
        np.array(sorted(ends), np.int64),
        params.min_tokens,
    )


def _allowed(params: SamplingParams, limits: ModelLimits) -> np.ndarray | None:
    if params.allowed_token_ids is None:
        return None
    for token_id in (min(params.allowed_token_ids), max(params.allowed_token_ids)):
        if not 0 <= token_id < limits.vocab_size:
            raise RequestError(
                f"allowed_token_ids has token {token_id}, which is no token of this model; "
                f"allowed: 0..{limits.vocab_size - 1}"
            )
    allowed = np.zeros(limits.vocab_size, bool)
    allowed[list(params.allowed_token_ids)] = True
    return allowed


def _bad_words(params: SamplingParams, tokenizer: Tokenizer | None) -> tuple[tuple[int, ...], ...]:
    """Each word as tokens, as it begins a text and as it stands behind another word, as vLLM takes them."""
    if not params.bad_words:
        return ()
    if tokenizer is None:
        raise RequestError("bad_words needs a tokenizer, and this model has none")
    words = [text for word in params.bad_words for text in (word.lstrip(), f" {word.lstrip()}")]
    encoded = (tuple(tokenizer.encode(word, add_special_tokens=False)) for word in words)
    return tuple(dict.fromkeys(tokens for tokens in encoded if tokens))
