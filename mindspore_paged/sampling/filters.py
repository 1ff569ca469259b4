"""Which tokens a draw may still take: filters of scores, or of weights that need not sum to one."""

import numpy as np

FEW = 256
"""Weights among which a nucleus is looked for first."""
_DIGIT_BITS = 48  # of a float64: what is left are its exponent and the first four bits of its fraction
_DIGITS_OF_ONE = 1023 << (52 - _DIGIT_BITS)
_NUM_DIGITS = 1024  # down to 2 ** -64
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
    group = min(GROUP, values.size // (2 * count))
    if group > 1:
        num_groups = values.size // group
        peaks = values[: num_groups * group].reshape(group, num_groups).max(axis=0)
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
    needed = top_p * weights.sum()
    nucleus = largest(weights, _size_of_nucleus(weights, needed))
    kept = weights[nucleus]
    weights[:] = 0.0
    weights[nucleus] = kept


def _size_of_nucleus(weights: np.ndarray, needed: float) -> int:
    """How many of the largest weights, of which none is above 1, sum to `needed`.

    Mostly they are a few. Else weights are counted by their first digits, and those alone are sorted among which the
    sum is reached.
    """
    if weights.size // 2 > FEW:
        ends = _sums_of(weights[weights >= _nth_largest(weights, FEW)])
        if ends[-1] >= needed:
            return int(np.searchsorted(ends, needed, side="left")) + 1
    digits = weights.view(np.int64) >> _DIGIT_BITS
    np.subtract(_DIGITS_OF_ONE, digits, out=digits)
    np.minimum(digits, _NUM_DIGITS - 1, out=digits)
    sums = np.cumsum(np.bincount(digits, weights, _NUM_DIGITS))
    # The last digit that has a weight, where rounding leaves all of them below what is needed.
    reached = int(np.searchsorted(sums, min(needed, sums[-1]), side="left"))
    above = sums[reached - 1] if reached else 0.0
    within = weights[digits == reached]
    within = _sums_of(within[within > 0])
    size = min(int(np.searchsorted(within, needed - above, side="left")) + 1, len(within))
    return int(np.count_nonzero(digits < reached)) + size


def _sums_of(weights: np.ndarray) -> np.ndarray:
    """Of the largest, the two largest, and so on."""
    return np.cumsum(np.sort(weights)[::-1])


def exclude_top_choices(weights: np.ndarray, threshold: float) -> None:
    """Of the weights that are at least `threshold` of all, keep the smallest alone, in place.

    XTC as text-generation-webui and llama.cpp have it; among equals the first one stays.
    """
    top = np.flatnonzero(weights >= threshold * weights.sum())
    if len(top) > 1:
        kept = top[np.argmin(weights[top])]
        weights[top[top != kept]] = 0.0
