"""Which tokens a draw may still take: filters of scores, or of weights that need not sum to one."""

import numpy as np

GROUP = 64
"""Values that are looked at through their largest: 16 of 49,152 logits are found in a tenth of a partition's time."""


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of exactly `count` largest values; among equals the first ones are taken."""
    if count >= values.size:
        return np.arange(values.size)
    smallest = _nth_largest(values, count)
    above = np.flatnonzero(values > smallest)
    level = np.flatnonzero(values == smallest)[: count - above.size]
    return np.sort(np.concatenate([above, level]))


def _nth_largest(values: np.ndarray, count: int) -> float:
    """The last of the `count` largest values: of a whole vocabulary's only those are sorted that may be among them."""
    num_groups = values.size // GROUP
    if num_groups > count:
        peaks = values[: num_groups * GROUP].reshape(GROUP, num_groups).max(axis=0)
        bound = np.partition(peaks, num_groups - count)[num_groups - count]
        values = values[values >= bound]  # so many groups have one that is as large
    return np.partition(values, values.size - count)[values.size - count]


def within_sigmas(scores: np.ndarray, peak: float, sigmas: float) -> np.ndarray:
    """Logits that are within so many standard deviations of the largest, minus infinity for others (Tang et al. 2024).

    scores: [vocab_size] float32, of which those of forbidden tokens, minus infinity, do not count.
    """
    deviation = scores[np.isfinite(scores)].astype(np.float64).std()
    return np.where(scores >= peak - sigmas * deviation, scores, np.float32(-np.inf))


def keep_typical(weights: np.ndarray, typical_p: float) -> None:
    """Keep the weights whose surprise is nearest to the expected one, as many as make up `typical_p` of all, in place.

    Locally typical sampling, Meister et al. 2022; with equals of the last one.
    """
    possible = np.flatnonzero(weights)
    shares = weights[possible] / weights.sum()
    surprises = -np.log(shares)
    distances = np.abs(surprises - (shares * surprises).sum())
    order = np.argsort(distances, kind="stable")
    reached = min(int(np.searchsorted(np.cumsum(shares[order]), typical_p, side="left")), len(order) - 1)
    weights[possible[distances > distances[order[reached]]]] = 0.0


def keep_nucleus(weights: np.ndarray, top_p: float) -> None:
    """Keep the fewest largest weights that sum to at least `top_p` of all, in place (Holtzman et al. 2019).

    Among equals the first ones are taken.
    """
    total = weights.sum()
    # Weights below half the mean of what may be dropped sum to less than may be dropped: no need to sort them.
    worth_sorting = weights[weights >= (1.0 - top_p) * total / (2 * weights.size)]
    reached = np.searchsorted(np.cumsum(np.sort(worth_sorting)[::-1]), top_p * total, side="left")
    nucleus = largest(weights, reached + 1)
    kept = weights[nucleus]
    weights[:] = 0.0
    weights[nucleus] = kept


def exclude_top_choices(weights: np.ndarray, threshold: float) -> None:
    """Of the weights that are at least `threshold` of all, keep the smallest alone, in place.

    XTC as text-generation-webui and llama.cpp have it; among equals the first one stays.
    """
    top = np.flatnonzero(weights >= threshold * weights.sum())
    if len(top) > 1:
        kept = top[np.argmin(weights[top])]
        weights[top[top != kept]] = 0.0
