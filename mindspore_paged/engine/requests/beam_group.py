"""The beams of one request as sequences: which holds which, what is known of each, and the answers they come to."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import numpy as np

from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.sampling.beam_search import Beam, BeamSearch, Candidates, best_candidates


class Branching(NamedTuple):
    """How sequences become those of the next length.

    dropped: sequences whose beams nobody goes on from. forks: (parent, child), where a beam is kept more than once.
    """

    dropped: list[Sequence]
    forks: list[tuple[Sequence, Sequence]]


class BeamGroup:
    """Beams that go on together: each waits, held, until all have logits; `take`, `branch` and `go_on` mutate.

    They need not be computed in one step: of a beam's logits its best candidates are kept, and then neither its logits
    nor its pages are needed for the choice.

    search: what chooses. sequences: beam_width of them; the first one computes the prompt.
    make_detokenizer: for the text of an answer.
    """

    def __init__(
        self,
        search: BeamSearch,
        sequences: SequenceOf[Sequence],
        make_detokenizer: Callable[[], IncrementalDetokenizer],
    ):
        self.search = search
        self.sequences = tuple(sequences)
        self.live = [self.sequences[0]]  # who holds each of search.live
        self._candidates: dict[Sequence, Candidates] = {}
        self._make_detokenizer = make_detokenizer

    @property
    def is_ready(self) -> bool:
        """Whether the logits of all beams were taken."""
        return len(self._candidates) == len(self.live)

    def take(self, sequence: Sequence, logits: np.ndarray) -> None:
        """Keep what the logits [vocab_size] behind a beam say; raises StepError where they are not finite."""
        self._candidates[sequence] = best_candidates(logits, self.search.num_candidates)
        sequence.is_held = True

    def branch(self) -> Branching:
        """Choose the next beams, and who holds them, of a group that is ready; nothing is appended yet.

        A beam's sequence holds the best of those that go on from it.
        """
        before, candidates = self.live, self._candidates
        self._candidates = {}
        parents = [before[place] for place in self.search.advance([candidates[sequence] for sequence in before])]
        kept = set(parents)
        spare = iter([sequence for sequence in self.sequences if sequence not in kept])
        self.live, forks = [], []
        for parent in parents:
            holder = parent
            if parent not in kept:
                holder = next(spare)
                forks.append((parent, holder))
            kept.discard(parent)
            self.live.append(holder)
        return Branching([sequence for sequence in before if sequence not in parents], forks)

    def go_on(self) -> None:
        """Append the tokens that were chosen, once forks have copied what stands before them."""
        for sequence, beam in zip(self.live, self.search.live, strict=True):
            sequence.token_ids.append(beam.token_id)
            sequence.is_held = False

    def best(self, count: int) -> list[Beam]:
        """`count` answers, best first; of a search that is not done what there is, and beams without tokens."""
        beams = self.search.best(count)
        return beams + [Beam()] * (count - len(beams))

    def text_of(self, beam: Beam) -> str:
        """An answer's text."""
        detokenizer, token_ids = self._make_detokenizer(), beam.token_ids
        if beam.finish_reason == "stop" and not self.search.params.include_stop_str_in_output:
            token_ids.pop()
        for token_id in token_ids:
            detokenizer.append(token_id)
        detokenizer.finish()
        return detokenizer.text
