"""DRY, "don't repeat yourself": a penalty for tokens that would go on with what the text has said before.

By p-e-w, in text-generation-webui (pull request 5677); here with llama.cpp's names and what they mean there
(`llama_sampler_dry_apply`). The longer the repetition, the higher the penalty, so a loop ends whatever the model says.
"""

from collections.abc import Iterable, Sequence
from copy import copy

import numpy as np

from mindspore_paged.sampling.sampling_params import SamplingParams

HIGHEST_PENALTY = 1e30
"""Beyond any logit, and a score stays finite in float32."""


class Breakers:
    """Sequences of tokens over which no repetition reaches, by the tokens that each ends with.

    sequences: each at least one token. singles: those of one token, [S] int64, ascending.
    ends: the tokens that any of them ends with, int64.
    """

    def __init__(self, sequences: Iterable[tuple[int, ...]] = ()):
        heads: dict[tuple[int, ...], set[int]] = {}  # the first tokens, by those behind them: there may be thousands
        for head, *rest in sequences:
            heads.setdefault(tuple(rest), set()).add(head)
        self._singles = frozenset(heads.pop((), ()))
        self.singles = np.array(sorted(self._singles), np.int64)
        self._by_end: dict[int, list[tuple[tuple[int, ...], frozenset[int]]]] = {}
        for rest, firsts in heads.items():
            self._by_end.setdefault(rest[-1], []).append((rest, frozenset(firsts)))
        self.ends = np.array(sorted(self._singles.union(self._by_end)), np.int64)

    def begin(self, tokens: np.ndarray, place: int) -> int:
        """Where the one begins that ends at this place, of several the shortest; -1 where none does."""
        last = int(tokens[place])
        if last in self._singles:
            return place
        begins = -1
        for rest, firsts in self._by_end.get(last, ()):
            first = place - len(rest)
            if (
                first > begins
                and int(tokens[first]) in firsts
                and tuple(tokens[first + 1 : place + 1].tolist()) == rest
            ):
                begins = first
        return begins


NO_BREAKERS = Breakers()


class DryPenalty:
    """What DRY takes from the scores of one sequence; `observe` mutates.

    A token that would go on with a repetition of at least `dry_allowed_length` tokens loses `dry_multiplier`, times
    `dry_base` for each token that it has beyond. A repetition is the end of the text as far as the same stands earlier,
    within the last `dry_penalty_last_n` tokens, and behind the last breaker. The work for one token is a few passes of
    NumPy over these.

    params: with a dry_multiplier above 0. prompt_token_ids: what the text begins with. breakers: those of one token are
    never penalised.
    """

    def __init__(self, params: SamplingParams, prompt_token_ids: Sequence[int], breakers: Breakers = NO_BREAKERS):
        self._params = params
        self._breakers = breakers
        self._num_tokens = len(prompt_token_ids)
        self._tokens = np.array(prompt_token_ids, np.int64)
        self._matches = matches_of_end(self._tokens)
        self._last_break = (-1, -1)  # where the breaker that begins last begins, and where it ends
        for place in np.flatnonzero(np.isin(self._tokens, breakers.ends))[::-1].tolist():
            if place < self._last_break[0]:
                break
            self._note_breaker(place)

    def copy(self) -> "DryPenalty":
        """The same state, to go on from apart."""
        other = copy(self)
        other._tokens, other._matches = self._tokens.copy(), self._matches.copy()
        return other

    def observe(self, token: int) -> None:
        """Take note of a token that was appended."""
        place = self._num_tokens
        if place == len(self._tokens):
            room = np.zeros(max(64, place), np.int64)
            self._tokens = np.concatenate([self._tokens, room])
            self._matches = np.concatenate([self._matches, room])
        # The text up to a place is like the end by one token more than up to the place before it was, or not at all.
        self._matches[1:place] = self._matches[: place - 1] + 1 if place else 0
        self._matches[:1] = 1
        self._matches[:place] *= self._tokens[:place] == token
        self._tokens[place], self._matches[place] = token, 0
        self._num_tokens += 1
        self._note_breaker(place)

    def penalise(self, scores: np.ndarray) -> None:
        """Subtract the penalties; scores: [vocab_size] float32."""
        tokens, lengths = self._repetitions()
        if not tokens.size:
            return
        beyond = lengths - self._params.dry_allowed_length
        with np.errstate(over="ignore"):
            penalties = self._params.dry_multiplier * np.power(float(self._params.dry_base), beyond)
        scores[tokens] -= np.minimum(penalties, HIGHEST_PENALTY).astype(np.float32)

    def _repetitions(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that would go on with a repetition, each once, and how long the longest is so far; int64."""
        params, end = self._params, self._num_tokens
        window = end if params.dry_penalty_last_n == -1 else min(params.dry_penalty_last_n, end)
        first = end - window
        begins, ends = self._last_break
        longest = end - 1 - ends if begins >= first else window
        places = np.flatnonzero(self._matches[first : end - 1] >= params.dry_allowed_length)
        if not places.size:
            return places, places
        # None reaches beyond the window, nor over the breaker.
        lengths = np.minimum(np.minimum(self._matches[first + places], places + 1), longest)
        is_long = lengths >= params.dry_allowed_length
        tokens, lengths = self._tokens[first + 1 + places[is_long]], lengths[is_long]
        order = np.lexsort((lengths, tokens))
        tokens, lengths = tokens[order], lengths[order]
        is_longest = np.ones(tokens.size, bool)
        is_longest[:-1] = tokens[1:] != tokens[:-1]
        tokens, lengths = tokens[is_longest], lengths[is_longest]
        singles = self._breakers.singles
        if not singles.size:
            return tokens, lengths
        is_single = singles[np.minimum(np.searchsorted(singles, tokens), singles.size - 1)] == tokens
        return tokens[~is_single], lengths[~is_single]

    def _note_breaker(self, place: int) -> None:
        """Take note of the breaker that ends with the token at `place`, if it is the last: of equals the longest."""
        begins = self._breakers.begin(self._tokens, place)
        if begins >= 0:
            self._last_break = max(self._last_break, (begins, place))


def matches_of_end(tokens: np.ndarray) -> np.ndarray:
    """How many tokens, up to each place, are also the last ones of the text; 0 at its end.

    tokens: [N] int64; returns [N] int64. The Z algorithm (Gusfield 1997) over the text read backwards: linear time.
    """
    text = tokens[::-1].tolist()
    lengths, left, right = [0] * len(text), 0, 0
    for place in range(1, len(text)):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < len(text) and text[length] == text[place + length]:
            length += 1
        if place + length > right:
            left, right = place, place + length
        lengths[place] = length
    return np.array(lengths[::-1], np.int64)
