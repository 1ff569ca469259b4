"""From logits to token ids, one row for each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindspore_paged.errors import IntegrityError, StepError
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState, TokenCounts


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

        The order is that of vLLM: logit_bias, penalties, what structured_outputs forbids, then either the most likely
        token (the lowest id among equals), or temperature, min_p, top_k, top_p and a draw. A draw takes one uniform
        number from the sequence's own stream and inverts the cumulative distribution over token ids, so neighbours in
        the batch cannot change it.

        logits: [N, vocab_size] float32; not changed.
        states: N, in the order of the rows; advanced by one draw each, counts are left to `observe`.
        A row whose largest logit is not finite (a NaN anywhere, +inf, nothing but -inf) yields a StepError, and so does
        one of which structured_outputs allows nothing.
        Raises IntegrityError if the numbers of rows and states differ.
        """
        if logits.ndim != 2 or len(logits) != len(states):
            raise IntegrityError(f"logits have shape {logits.shape}; {len(states)} sequences need one row each")
        # The only work of a greedy row. NaN wins an argmax, so a broken row shows in its peak.
        peaks = logits.argmax(axis=1).tolist()
        # Row by row from here: temporaries of one row stay in the CPU's cache, those of a batch take 3 times as long.
        return [_sample_row(*row) for row in zip(logits, peaks, states, strict=True)]


def _sample_row(logits: np.ndarray, peak: int, state: SamplingState) -> SampledToken | StepError:
    params, scores = state.params, logits
    if params.biases is not None or state.counts is not None or state.constraint is not None:
        if not np.isfinite(logits[peak]):  # before it is forbidden, and nobody sees it
            return StepError(f"the largest logit is {logits[peak]}; it must be finite")
        scores = logits.copy()
        if params.biases is not None:
            tokens, values = params.biases
            scores[tokens] += values
        if state.counts is not None:
            _penalise(scores, state.counts, params)
        if state.constraint is not None:
            try:
                state.constraint.forbid(scores)
            except StepError as error:
                return error
        peak = int(scores.argmax())
    if not np.isfinite(scores[peak]):
        return StepError(f"the largest logit is {scores[peak]}; it must be finite")
    token = peak if params.greedy else _draw(scores, scores[peak], params, state.generator.random())
    if params.logprobs is None:
        return SampledToken(token)
    return _with_logprobs(logits, token, params.logprobs)


def _penalise(scores: np.ndarray, counts: TokenCounts, params: SamplingParams) -> None:
    tokens, generated = counts.tokens, counts.generated
    seen = scores[tokens].astype(np.float64)
    penalty = params.repetition_penalty
    seen = np.where(seen > 0, seen / penalty, seen * penalty)
    seen -= params.frequency_penalty * generated + params.presence_penalty * (generated > 0)
    scores[tokens] = seen


def _draw(scores: np.ndarray, peak: float, params: SamplingParams, uniform: float) -> int:
    tokens = None
    if 0 < params.top_k < scores.size:
        # Before temperature and min_p: neither changes the order of tokens, and k of them are cheaper to treat.
        tokens = _largest(scores, params.top_k)
        scores = scores[tokens]
    # The peak's weight is 1, so nothing overflows; a tiny temperature takes the others to exp(-inf) = 0.
    with np.errstate(over="ignore"):
        weights = np.exp((scores.astype(np.float64) - peak) / params.temperature)
    weights[weights < params.min_p] = 0.0
    if params.top_p < 1.0:
        _zero_outside_nucleus(weights, params.top_p)
    cumulative = np.cumsum(weights)
    position = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return position if tokens is None else int(tokens[position])


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of exactly `count` largest values; among equals the first ones are taken."""
    if count >= values.size:
        return np.arange(values.size)
    smallest = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > smallest)
    level = np.flatnonzero(values == smallest)[: count - above.size]
    return np.sort(np.concatenate([above, level]))


def _zero_outside_nucleus(weights: np.ndarray, top_p: float) -> None:
    """Keep the fewest largest weights that sum to at least `top_p` of all; among equals the first ones are taken."""
    total = weights.sum()
    # Weights below half the mean of what may be dropped sum to less than may be dropped: no need to sort them.
    worth_sorting = weights[weights >= (1.0 - top_p) * total / (2 * weights.size)]
    reached = np.searchsorted(np.cumsum(np.sort(worth_sorting)[::-1]), top_p * total, side="left")
    nucleus = _largest(weights, reached + 1)
    kept = weights[nucleus]
    weights[:] = 0.0
    weights[nucleus] = kept


def _with_logprobs(logits: np.ndarray, token: int, count: int) -> SampledToken:
    below_peak = logits.astype(np.float64) - logits.max()
    logprobs = below_peak - np.log(np.exp(below_peak).sum())
    top = _largest(logits, count if count > 0 else logits.size) if count else np.empty(0, dtype=np.int64)
    top = top[np.argsort(-logits[top], kind="stable")]
    pairs = zip(top.tolist(), logprobs[top].tolist(), strict=True)
    return SampledToken(token, float(logprobs[token]), tuple(pairs))
