"""From logits to token ids, one row for each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindspore_paged.errors import IntegrityError, StepError
from mindspore_paged.sampling.filters import exclude_top_choices, keep_nucleus, keep_typical, largest, within_sigmas
from mindspore_paged.sampling.sampling_params import SamplingParams
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

        The order is that of vLLM: logit_bias, penalties, what bad_words, allowed_token_ids, min_tokens and
        structured_outputs forbid, then either the most likely token (the lowest id among equals), or top_n_sigma,
        top_k, temperature, min_p, typical_p, top_p, XTC and a draw. A draw takes one uniform number, with XTC two, from
        the sequence's own stream and inverts the cumulative distribution over token ids, so neighbours in the batch
        cannot change it.

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
        # The only work of a greedy row. NaN wins an argmax, so a broken row shows in its peak.
        peaks = logits.argmax(axis=1).tolist()
        # Row by row from here: temporaries of one row stay in the CPU's cache, those of a batch take 3 times as long.
        return [_choose(*row) for row in zip(logits, peaks, states, strict=True)]


def _told(logits: np.ndarray, token: int | StepError, state: SamplingState) -> SampledToken | StepError:
    if isinstance(token, StepError):
        return token
    count = state.params.logprobs
    return SampledToken(token) if count is None else with_logprobs(logits, token, count)


def _choose(logits: np.ndarray, peak: int, state: SamplingState) -> int | StepError:
    params, scores = state.params, logits
    if state.edits_logits:
        if not np.isfinite(logits[peak]):  # before it is forbidden, and nobody sees it
            return StepError(f"the largest logit is {logits[peak]}; it must be finite")
        scores = logits.copy()
        try:
            state.edit(scores)
        except StepError as error:
            return error
        peak = int(scores.argmax())
    if not np.isfinite(scores[peak]):
        return StepError(f"the largest logit is {scores[peak]}; it must be finite")
    return peak if params.greedy else _draw(scores, scores[peak], params, state.generator)


def _draw(scores: np.ndarray, peak: float, params: SamplingParams, generator: np.random.Generator) -> int:
    uniform, tokens = generator.random(), None
    if params.top_n_sigma > 0:
        scores = within_sigmas(scores, peak, params.top_n_sigma)
    if 0 < params.top_k < scores.size:
        # Before temperature and min_p: neither changes the order of tokens, and k of them are cheaper to treat.
        tokens = largest(scores, params.top_k)
        scores = scores[tokens]
    # The peak's weight is 1, so nothing overflows; a tiny temperature takes the others to exp(-inf) = 0.
    with np.errstate(over="ignore"):
        weights = np.exp((scores.astype(np.float64) - peak) / params.temperature)
    weights[weights < params.min_p] = 0.0
    if params.typical_p < 1.0:
        keep_typical(weights, params.typical_p)
    if params.top_p < 1.0:
        keep_nucleus(weights, params.top_p)
    if params.xtc_probability > 0 and generator.random() < params.xtc_probability:
        exclude_top_choices(weights, params.xtc_threshold)
    cumulative = np.cumsum(weights)
    position = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return position if tokens is None else int(tokens[position])


def with_logprobs(logits: np.ndarray, token: int, count: int) -> SampledToken:
    """A token with its log-probability and those of the `count` most likely ones, -1 for all; logits: [vocab_size]."""
    below_peak = logits.astype(np.float64) - logits.max()
    logprobs = below_peak - np.log(np.exp(below_peak).sum())
    top = largest(logits, count if count > 0 else logits.size) if count else np.empty(0, dtype=np.int64)
    top = top[np.argsort(-logits[top], kind="stable")]
    pairs = zip(top.tolist(), logprobs[top].tolist(), strict=True)
    return SampledToken(token, float(logprobs[token]), tuple(pairs))
