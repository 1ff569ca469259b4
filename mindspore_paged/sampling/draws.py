"""From the scores of a row, or of several, to drawn tokens: a uniform number inverts the cumulative distribution.

Probabilities need not sum to one: `weights` are e to the scores below the peak over the temperature, float64.
"""

import numpy as np

from mindspore_paged.sampling.filters import exclude_top_choices, keep_nucleus, keep_typical, largest, within_sigmas
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState

MOST_FEW = 1024
"""A top_k up to which the rest of a draw is cheaper for all rows together than row by row."""

_BLOCK = 256
"""Weights whose sums are added up before a block's own are: a long chain of additions cannot be vectorised."""


def draws_among_few(params: SamplingParams, vocab_size: int) -> bool:
    """Whether `draw_among_few` can draw: few tokens are left, and the filters are those that it knows."""
    is_few = 0 < params.top_k <= MOST_FEW and params.top_k < vocab_size
    return is_few and params.typical_p == 1.0 and params.xtc_probability == 0


def draw(scores: np.ndarray, peak: float, state: SamplingState) -> int:
    """A token of one row, by all that its request asks; scores: [vocab_size] float32, the largest of which is peak.

    Takes one number of the sequence's stream, two with XTC.
    """
    params, generator = state.params, state.generator
    uniform, tokens = generator.random(), None
    scores = within_sigmas(scores, peak, params.top_n_sigma) if params.top_n_sigma > 0 else scores
    if 0 < params.top_k < scores.size:
        # Before temperature and min_p: neither changes the order of tokens, and k of them are cheaper to treat.
        tokens = largest(scores, params.top_k)
        scores = scores[tokens]
    weights = _weights(scores, peak, params.temperature)
    if params.min_p > 0:
        weights[weights < params.min_p] = 0.0
    if params.typical_p < 1.0:
        keep_typical(weights, params.typical_p)
    if params.top_p < 1.0:
        keep_nucleus(weights, params.top_p)
    if params.xtc_probability > 0 and generator.random() < params.xtc_probability:
        exclude_top_choices(weights, params.xtc_threshold)
    position = position_of(weights, uniform)
    return position if tokens is None else int(tokens[position])


def draw_among_few(rows: list[np.ndarray], peaks: np.ndarray, states: list[SamplingState]) -> np.ndarray:
    """A token of each row, int64 [N], of those whose requests `draws_among_few` takes; one number of each's stream.

    rows: N times [vocab_size] float32; peaks: [N], the largest of each. What is done for a row is the same whatever the
    others are: sums are taken one number after the other, to which the zeros of what a row lacks add nothing.
    """
    params = [state.params for state in states]
    uniforms = np.array([state.generator.random() for state in states])
    tokens = np.zeros((len(rows), max(each.top_k for each in params)), np.int64)
    scores = np.full(tokens.shape, -np.inf, np.float32)
    for place, (row, peak, each) in enumerate(zip(rows, peaks, params, strict=True)):
        kept = within_sigmas(row, peak, each.top_n_sigma) if each.top_n_sigma > 0 else row
        tokens[place, : each.top_k] = largest(kept, each.top_k)
        scores[place, : each.top_k] = kept[tokens[place, : each.top_k]]
    temperatures, min_ps, top_ps = (
        np.array([getattr(each, name) for each in params])[:, None] for name in ("temperature", "min_p", "top_p")
    )
    weights = _weights(scores, peaks[:, None], temperatures)
    weights[weights < min_ps] = 0.0
    if (top_ps < 1.0).any():
        weights = _nuclei(weights, top_ps)
    ends = np.cumsum(weights, axis=1)
    # Searched from the right: a token of no weight ends where the one before it does.
    positions = (ends <= uniforms[:, None] * ends[:, -1:]).sum(axis=1)
    return tokens[np.arange(len(rows)), positions]


def position_of(weights: np.ndarray, uniform: float) -> int:
    """The position at which so large a share of all weights ends, or within which: never one of no weight.

    weights: [vocab_size] float64, some of them above 0. uniform: from 0 to below 1. Sums are taken by blocks.
    """
    num_whole = weights.size // _BLOCK * _BLOCK
    sums = np.append(weights[:num_whole].reshape(-1, _BLOCK).sum(axis=1), weights[num_whole:].sum())
    ends = np.cumsum(sums)
    target = uniform * ends[-1]
    block = int(np.searchsorted(ends, target, side="right"))
    first = block * _BLOCK
    own = weights[first : first + _BLOCK]
    inside = int(np.searchsorted(np.cumsum(own), target - (ends[block] - sums[block]), side="right"))
    if inside == len(own) or own[inside] == 0.0:  # by the rounding of a sum that was taken in another order
        inside = int(np.flatnonzero(own)[-1])
    return first + inside


def _weights(scores: np.ndarray, peak, temperature) -> np.ndarray:
    # The peak's weight is 1, so nothing overflows; a tiny temperature takes the others to exp(-inf) = 0.
    weights = np.subtract(scores, peak, dtype=np.float64)
    with np.errstate(over="ignore"):
        np.divide(weights, temperature, out=weights)
        return np.exp(weights, out=weights)


def _nuclei(weights: np.ndarray, top_ps: np.ndarray) -> np.ndarray:
    """What `keep_nucleus` keeps of each row, of its own top_p; weights [N, K], top_ps [N, 1]."""
    order = np.argsort(-weights, axis=1, kind="stable")
    ends = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    needed = np.where(top_ps < 1.0, top_ps * ends[:, -1:], np.inf)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(weights.shape[1])[None, :].repeat(len(weights), axis=0), axis=1)
    return np.where(ranks <= (ends < needed).sum(axis=1)[:, None], weights, 0.0)
