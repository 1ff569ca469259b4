"""From logits to token ids, one row for each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mindspore_paged.errors import IntegrityError, StepError
from mindspore_paged.sampling.draws import draw, draw_among_few, draws_among_few
from mindspore_paged.sampling.filters import largest
from mindspore_paged.sampling.sampling_state import SamplingState


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token.

    logprob: natural logarithm of its probability, or None when the request did not ask.
    top_logprobs: (token id, logprob) of the most likely tokens, best first, or None when the request did not ask.
    Both come from the distribution of the model itself, before logit_bias, penalties, temperature and filters, as vLLM
    reports them (its `raw_logprobs`).
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] | None = None


class Sampler:
    """Chooses the next token of every sequence of a step, by the parameters of each."""

    def sample(self, logits: np.ndarray, states: Sequence[SamplingState]) -> list[SampledToken | StepError]:
        """One token for each row, or the error that ends that row's request and leaves the others alone.

        The order is that of vLLM: logits_processors, logit_bias, penalties (DRY's last), what bad_words,
        allowed_token_ids, min_tokens and structured_outputs forbid, then either the most likely token (the lowest id
        among equals), or top_n_sigma, top_k, temperature, min_p, typical_p, top_p, XTC and a draw. A draw takes one
        uniform number, with XTC two, from the sequence's own stream and inverts the cumulative distribution over token
        ids, so neighbours in the batch cannot change it. What rows share is done for all of them: the peaks, and draws
        that few tokens are left of.

        logits: [N, vocab_size] float32; not changed.
        states: N, in the order of the rows; advanced by one draw each, counts are left to `observe`.
        A row whose largest logit is not finite (a NaN anywhere, +inf, nothing but -inf) yields a StepError, and so does
        one of which structured_outputs allows nothing.
        Raises IntegrityError if the numbers of rows and states differ.
        """
        choices = self.choose(logits, states)
        return [_told(*row) for row in zip(logits, choices, states, strict=True)]

    def choose(self, logits: np.ndarray, states: Sequence[SamplingState]) -> list[int | StepError]:
        """The token ids that `sample` gives, without what a request asks to be told of them; parameters are its."""
        if logits.ndim != 2 or len(logits) != len(states):
            raise IntegrityError(f"logits have shape {logits.shape}; {len(states)} sequences need one row each")
        # All that a greedy row needs. NaN wins an argmax, so a broken row shows in its peak.
        peaks = logits.argmax(axis=1)
        values = logits[np.arange(len(logits)), peaks]
        chosen: list[int | StepError] = peaks.tolist()
        for place in np.flatnonzero(~np.isfinite(values)):
            chosen[place] = _not_finite(values[place])
        # What needs a row's own numbers is done row by row: temporaries of one stay in the CPU's cache, and those of a
        # batch take 3 times as long.
        few: list[_Row] = []
        for place, state in enumerate(states):
            if isinstance(chosen[place], StepError) or (state.params.greedy and not state.edits_logits):
                continue
            row = _edited(place, logits[place], values[place], state)
            if isinstance(row, StepError):
                chosen[place] = row
            elif state.params.greedy:
                chosen[place] = int(row.scores.argmax())
            elif draws_among_few(state.params, logits.shape[1]):
                few.append(row)
            else:
                chosen[place] = draw(row.scores, row.peak, state)
        if few:
            scores, found = [row.scores for row in few], np.array([row.peak for row in few])
            tokens = draw_among_few(scores, found, [states[row.place] for row in few])
            for row, token in zip(few, tokens.tolist(), strict=True):
                chosen[row.place] = token
        return chosen


class _Row(NamedTuple):
    """The scores of the row at a place, as its request has edited them, and the largest."""

    place: int
    scores: np.ndarray
    peak: float


def _edited(place: int, logits: np.ndarray, peak: float, state: SamplingState) -> _Row | StepError:
    if not state.edits_logits:
        return _Row(place, logits, peak)
    scores = logits.copy()
    try:
        state.edit(scores)
    except StepError as error:
        return error
    peak = scores[scores.argmax()]
    return _Row(place, scores, peak) if np.isfinite(peak) else _not_finite(peak)


def _not_finite(peak: float) -> StepError:
    return StepError(f"the largest logit is {peak}; it must be finite")


def _told(logits: np.ndarray, token: int | StepError, state: SamplingState) -> SampledToken | StepError:
    if isinstance(token, StepError):
        return token
    count = state.params.logprobs
    return SampledToken(token) if count is None else with_logprobs(logits, token, count)


def with_logprobs(logits: np.ndarray, token: int, count: int) -> SampledToken:
    """A token with its log-probability and those of the `count` most likely ones, -1 for all; logits: [vocab_size]."""
    below_peak = logits.astype(np.float64) - logits.max()
    logprobs = below_peak - np.log(np.exp(below_peak).sum())
    top = largest(logits, count if count > 0 else logits.size) if count else np.empty(0, dtype=np.int64)
    top = top[np.argsort(-logits[top], kind="stable")]
    pairs = zip(top.tolist(), logprobs[top].tolist(), strict=True)
    return SampledToken(token, float(logprobs[token]), tuple(pairs))
