"""Tokens that one request never wants, always wants, or not yet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenRules:
    """What a request forbids whatever the model says; ids of the model's tokens.

    allowed: [vocab_size] bool, the only tokens that may come; None for all.
    bad_words: tokens that must not follow each other in the answer, one or more of each.
    ends: the tokens that end the text, which may not come before `min_tokens` others; int64.
    """

    allowed: np.ndarray | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    ends: np.ndarray | None = None
    min_tokens: int = 0

    def forbid(self, scores: np.ndarray, output: Sequence[int]) -> None:
        """Set the scores of tokens that may not come behind `output` to minus infinity; scores: [vocab_size]."""
        if self.allowed is not None:
            scores[~self.allowed] = -np.inf
        if len(output) < self.min_tokens:
            scores[self.ends] = -np.inf
        for *before, last in self.bad_words:
            if not before or list(output[-len(before) :]) == before:
                scores[last] = -np.inf
