"""From the logits of each beam to the beams of the next length: what is kept, what has ended, and when it is enough."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mindspore_paged.errors import IntegrityError, StepError
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.filters import largest


class Candidates(NamedTuple):
    """The best ways in which one beam may go on: token_ids [C] int64 ascending, logprobs [C] float64."""

    token_ids: np.ndarray
    logprobs: np.ndarray


def best_candidates(logits: np.ndarray, count: int) -> Candidates:
    """The `count` most likely tokens of a row, the lowest ids among equals; logits: [vocab_size] float32.

    Raises StepError where the largest logit is not finite.
    """
    peak = logits.max()
    if not np.isfinite(peak):
        raise StepError(f"the largest logit is {peak}; it must be finite")
    token_ids = largest(logits, count)
    below_peak = logits.astype(np.float64) - peak
    return Candidates(token_ids, below_peak[token_ids] - np.log(np.exp(below_peak).sum()))


@dataclass(frozen=True, eq=False, slots=True)
class Beam:
    """An answer as far as it goes: one token behind another beam, or none behind the prompt.

    cumulative_logprob: the sum of its tokens' log-probabilities. finish_reason: `stop` or `length` where it has ended.
    """

    length: int = 0
    cumulative_logprob: float = 0.0
    token_id: int | None = None
    parent: "Beam | None" = None
    finish_reason: str | None = None

    @property
    def token_ids(self) -> list[int]:
        """Its tokens, with the one that ended it."""
        token_ids, beam = [], self
        while beam.parent is not None:
            token_ids.append(beam.token_id)
            beam = beam.parent
        return token_ids[::-1]

    def score(self, length_penalty: float, length: int | None = None) -> float:
        """What it is compared by once it has ended; length: as if it had so many tokens."""
        return self.cumulative_logprob / (length or self.length) ** length_penalty


class BeamSearch:
    """The beams of one prompt, by the rules of transformers 4.57's `GenerationMixin._beam_search`; `advance` mutates.

    Of all continuations of all beams the best 2 * beam_width by the sum of log-probabilities are looked at (with E
    end-of-sequence tokens max(2, 1 + E) * beam_width). Those among the first beam_width that have ended join the
    finished ones, of which the beam_width with the best scores are kept; the first beam_width that have not ended are
    the next beams. At max_length all of them end. Sums are float64, where transformers adds up float32.

    eos_token_ids: the tokens that end a beam. max_length: tokens of a beam at most.
    live: the beams that go on, best first. finished: those that have ended, best first.
    is_done: nothing more is to come.
    """

    def __init__(self, params: BeamSearchParams, eos_token_ids: Collection[int], max_length: int):
        self.params = params
        self.eos_token_ids = frozenset() if params.ignore_eos else frozenset(eos_token_ids)
        self.max_length = max_length
        self.num_candidates = max(2, 1 + len(self.eos_token_ids)) * params.beam_width
        self.live = [Beam()]
        self.finished: list[Beam] = []
        self.is_done = False

    def advance(self, candidates: Sequence[Candidates]) -> list[int]:
        """Make every beam a token longer; returns for each of the new ones the place of the beam that it goes on from.

        candidates: `num_candidates` of each live beam, in their order; equals go by that order, then by token.
        Raises IntegrityError unless there are as many as beams, or if the search is done.
        """
        if self.is_done or len(candidates) != len(self.live):
            raise IntegrityError(f"{len(candidates)} rows of candidates for {len(self.live)} beams of a search")
        token_ids = np.concatenate([own.token_ids for own in candidates])
        before = [beam.cumulative_logprob for beam in self.live]
        sums = np.concatenate([total + own.logprobs for total, own in zip(before, candidates, strict=True)])
        parents = np.repeat(np.arange(len(self.live)), [len(own.token_ids) for own in candidates])
        best = np.lexsort((token_ids, parents, -sums))[: self.num_candidates]
        live, kept_from, width = [], [], self.params.beam_width
        for place, pick in enumerate(best):
            parent = int(parents[pick])
            beam = self._continuation(self.live[parent], int(token_ids[pick]), float(sums[pick]))
            if beam.finish_reason is None and len(live) < width:
                live.append(beam)
                kept_from.append(parent)
            elif beam.finish_reason is not None and place < width:
                self.finished.append(beam)
        self.finished = sorted(self.finished, key=self.score, reverse=True)[:width]
        self.live = live
        self.is_done = self._is_enough()
        return kept_from

    def score(self, beam: Beam) -> float:
        """By what finished beams are compared: transformers' `sequences_scores`."""
        return beam.score(self.params.length_penalty)

    def best(self, count: int) -> list[Beam]:
        """The `count` best answers, as far as there are so many; while it goes on, beams that do are among them."""
        beams = self.finished if self.is_done else [*self.finished, *(beam for beam in self.live if beam.length)]
        return sorted(beams, key=self.score, reverse=True)[:count]

    def _continuation(self, parent: Beam, token_id: int, total: float) -> Beam:
        length, reason = parent.length + 1, None
        if token_id in self.eos_token_ids:
            reason = "stop"
        elif length == self.max_length:
            reason = "length"
        return Beam(length, total, token_id, parent, reason)

    def _is_enough(self) -> bool:
        if not self.live:
            return True
        if len(self.finished) < self.params.beam_width:
            return False
        if self.params.early_stopping is True:
            return True
        penalty, leader = self.params.length_penalty, self.live[0]
        is_patient = self.params.early_stopping == "never" and penalty > 0
        possible = leader.score(penalty, self.max_length if is_patient else leader.length)
        return possible <= self.score(self.finished[-1])
