"""What a request adds to the logits of some tokens, checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mindspore_paged.errors import RequestError
from mindspore_paged.wording import shortened

MAX_LOGIT_BIAS = 300
"""Entries, OpenAI's bound: each sequence looks at all of them for every token."""

HIGHEST_BIAS = 100

MAX_DIGITS = 10
"""Of a token id as text; no vocabulary comes near."""

LogitBias = tuple[tuple[int, float], ...]
"""Pairs of a token id and what is added to its logit, in order of ids: equal mappings are equal, and hash alike."""


def logit_bias_pairs(given: Any) -> LogitBias:
    """The pairs that a mapping of token ids, or of their digits as JSON has them, to numbers says.

    Pairs as this gives them are taken, too. Raises RequestError that names the entry which is wrong. Whether the model
    has such tokens is checked where the model is known.
    """
    if given == ():
        return ()
    pairs = given.items() if isinstance(given, Mapping) else _as_pairs(given)
    if len(pairs) > MAX_LOGIT_BIAS:
        raise RequestError(f"logit_bias is of {len(pairs)} tokens; it must be of {MAX_LOGIT_BIAS} at most")
    biases: dict[int, float] = {}
    for key, value in pairs:
        token_id = _token_id(key)
        if token_id in biases:
            raise RequestError(f"logit_bias is given twice for token {token_id}; it must be given once")
        biases[token_id] = _bias(token_id, value)
    return tuple(sorted(biases.items()))


def _as_pairs(given: Any) -> LogitBias:
    is_pairs = isinstance(given, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in given)
    if not is_pairs:
        raise RequestError(
            f"logit_bias is {shortened(given)}; it must be a mapping of token ids to numbers "
            f"from -{HIGHEST_BIAS} to {HIGHEST_BIAS}"
        )
    return given


def _token_id(key: Any) -> int:
    if isinstance(key, np.integer):
        return int(key)
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= MAX_DIGITS:
        return int(key)
    if type(key) is not int:
        raise RequestError(f"logit_bias is given for {shortened(key)}; it must be given for token ids")
    return key


def _bias(token_id: int, value: Any) -> float:
    if isinstance(value, np.generic):
        value = value.tolist()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -HIGHEST_BIAS <= value <= HIGHEST_BIAS:  # a NaN is in no range
        raise RequestError(
            f"logit_bias of token {shortened(token_id)} is {shortened(value)}; it must be a number "
            f"from -{HIGHEST_BIAS} to {HIGHEST_BIAS}"
        )
    return float(value)
