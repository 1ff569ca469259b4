"""What one step computes: chunks of sequences, laid side by side."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.sampling.constraint import Constraint


class Chunk(NamedTuple):
    """Tokens start .. start + num_tokens - 1 of a sequence, computed in one step.

    drafts: guesses at those behind. wants_all: logits are wanted behind every token, not behind the last alone.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    drafts: tuple[int, ...] = ()
    wants_all: bool = False

    @property
    def end(self) -> int:
        """First token after the chunk."""
        return self.start + self.num_tokens

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to compute after it, so that its last logits give the next token."""
        return self.start + self.num_tokens == len(self.sequence.token_ids)

    @property
    def num_logits(self) -> int:
        """Tokens whose logits are wanted, the last one and the drafts behind it; or hidden states, of all."""
        of_chunk = self.num_tokens if self.wants_all or self.sequence.pooled is not None else 1
        return of_chunk + len(self.drafts)


@dataclass
class StepPlan:
    """The chunks of one step, in the order in which their tokens are laid out.

    `add`, `drop` and `add_drafts` mutate. num_tokens: of all chunks, with their drafts. num_logits: of tokens whose
    logits, or hidden states, are wanted. most_drafts: of one sequence, where any were to be guessed. drafting_seconds:
    what guessing them took.
    """

    chunks: list[Chunk] = field(default_factory=list)
    most_drafts: int = field(default=0, init=False)
    drafting_seconds: float = field(default=0.0, init=False)
    num_tokens: int = field(default=0, init=False)
    num_logits: int = field(default=0, init=False)
    num_long_prefill_tokens: int = field(default=0, init=False)

    def __post_init__(self):
        for chunk in self.chunks:
            self._count(chunk, 1)

    def add(self, chunk: Chunk) -> None:
        """Put a chunk at the end."""
        self.chunks.append(chunk)
        self._count(chunk, 1)

    def drop(self, sequence: Sequence) -> None:
        """Take a sequence's chunk out again, if it has one."""
        for chunk in self.chunks:
            if chunk.sequence is sequence:
                self.chunks.remove(chunk)
                self._count(chunk, -1)
                return

    def add_drafts(self, place: int, drafts: list[int]) -> None:
        """Put guesses behind the chunk at `place`, instead of those that it has."""
        change = len(drafts) - len(self.chunks[place].drafts)
        self.chunks[place] = self.chunks[place]._replace(drafts=tuple(drafts))
        self.num_tokens += change
        self.num_logits += change

    def rows_of_logits(self) -> Iterator[tuple[Chunk, int]]:
        """Each chunk, with the row of its first logits or hidden states."""
        row = 0
        for chunk in self.chunks:
            yield chunk, row
            row += chunk.num_logits

    @property
    def pools(self) -> bool:
        """Whether hidden states are wanted of it, and no logits; of all chunks or of none."""
        return bool(self.chunks) and self.chunks[0].sequence.pooled is not None

    @property
    def constraints(self) -> list[Constraint]:
        """Those of the sequences that get a token from it, as far as they have any."""
        states = (chunk.sequence.sampling_state for chunk in self.chunks if chunk.is_last)
        return [state.constraint for state in states if state.constraint is not None]

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences that take part."""
        return [chunk.sequence for chunk in self.chunks]

    def _count(self, chunk: Chunk, sign: int) -> None:
        self.num_tokens += sign * (chunk.num_tokens + len(chunk.drafts))
        self.num_logits += sign * chunk.num_logits
        if chunk.sequence.is_long_prefill:
            self.num_long_prefill_tokens += sign * chunk.num_tokens
