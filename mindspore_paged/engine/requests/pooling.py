"""Embeddings: one vector for a prompt, from the hidden states of its tokens, as chunk after chunk is computed."""

from typing import Literal, get_args

import numpy as np

from mindspore_paged.errors import IntegrityError, RequestError, StepError
from mindspore_paged.wording import shortened

Pooling = Literal["mean", "last"]
"""Which hidden states count, behind the model's last norm: the mean of all tokens', or that of the last."""

POOLINGS = get_args(Pooling)


def checked_pooling(pooling: str) -> Pooling:
    """The kind of pooling; raises RequestError for what is none."""
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise RequestError(f"pooling is {shortened(pooling)}; it must be {' or '.join(POOLINGS)}")
    return pooling


class PooledStates:
    """What the hidden states of a sequence come to so far; `add` mutates.

    Sums are float64 and add up token by token, so that it makes no difference into which chunks a prompt was cut.
    """

    def __init__(self, pooling: Pooling):
        self.pooling = pooling
        self._num_tokens = 0
        self._pooled: np.ndarray | None = None

    @property
    def needs_all(self) -> bool:
        """Whether every token must be computed, so that pages of an earlier prompt are of no use."""
        return self.pooling == "mean"

    def add(self, start: int, states: np.ndarray) -> None:
        """Take the states [T, hidden_size] of tokens start, start + 1, …; a sequence that starts over forgets the rest.

        Raises IntegrityError if the mean would miss a token or count one twice.
        """
        if start == 0:
            self._num_tokens, self._pooled = 0, None
        if self.needs_all and start != self._num_tokens:
            raise IntegrityError(f"states of token {start} come after those of {self._num_tokens} tokens")
        self._num_tokens = start + len(states)
        if not self.needs_all:
            self._pooled = states[-1].astype(np.float64)
            return
        before = np.zeros((1, states.shape[1])) if self._pooled is None else self._pooled[None]
        self._pooled = np.concatenate([before, states]).sum(axis=0)

    def embedding(self) -> np.ndarray:
        """The vector, float32 [hidden_size] of length 1; raises StepError if the states are not finite, or all zero."""
        pooled = self._pooled / self._num_tokens if self.needs_all else self._pooled
        length = np.linalg.norm(pooled)
        if not (np.isfinite(length) and length > 0):
            raise StepError(f"the pooled hidden states have length {length}; it must be finite and above 0")
        return (pooled / length).astype(np.float32)
