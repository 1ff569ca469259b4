"""A second, smaller model that guesses how sequences go on, for the model to check."""

import logging
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.execution.draft_pages import DraftPages
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.engine.scheduling.draft_length import DraftLength
from mindspore_paged.engine.scheduling.step_plan import Chunk, StepPlan
from mindspore_paged.errors import StepError
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_state import SamplingState
from mindspore_paged.step_inputs import StepInputs

log = logging.getLogger("mindspore_paged")

TableChanges = tuple[np.ndarray, np.ndarray]
"""Entries of block_table that the device does not know yet: indices int32 [C, 2], block ids int32 [C]."""


@dataclass
class _Guesser:
    """One sequence that guesses ahead: its chunk in the plan, its state gone ahead, and what it guessed so far."""

    place: int
    chunk: Chunk
    state: SamplingState
    drafts: list[int] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.drafts) == len(self.chunk.drafts)


class DraftModel:
    """Fills in the drafts of a planned step; `propose` mutates the plan, the cache and the draft model's pages.

    First it computes what the step is about to compute, and what it has not computed before, so that its pages follow
    the model's; then a token a sequence and draft, all sequences together. Each draft is chosen as the model will
    choose, from the draft model's logits and by the same uniform numbers.

    runner: steps of the draft model, over pages of its own and the block_table of the model. pages: what it has
    computed. vocab_size: rows of the model's logits, which the draft model's are cut to or filled up with -inf; a
    token id that the draft model does not have is a token 0 to it. max_num_tokens: tokens of its steps, at most.
    draft_length: told what the steps take.
    """

    def __init__(
        self,
        runner: Runner,
        pages: DraftPages,
        cache: CacheManager,
        vocab_size: int,
        own_vocab_size: int,
        max_num_tokens: int,
        draft_length: DraftLength | None = None,
    ):
        self.runner = runner
        self.pages = pages
        self.cache = cache
        self.vocab_size = vocab_size
        self.own_vocab_size = own_vocab_size
        self.max_num_tokens = max_num_tokens
        self.draft_length = draft_length
        self.sampler = Sampler()

    def propose(self, plan: StepPlan, table_changes: TableChanges) -> None:
        """Put tokens in place of the plan's unknown drafts; a sequence that has to catch up first may get none.

        table_changes: are written to the device's block_table, unless nothing is run.
        A step that the device refuses costs the drafts, and nothing else.
        """
        started = perf_counter()
        for chunk in plan.chunks:
            self.pages.limit(self._blocks(chunk.sequence), chunk.start - self._origin(chunk.sequence))
        if plan.most_drafts:
            guessers = [
                _Guesser(place, chunk, chunk.sequence.sampling_state.ahead())
                for place, chunk in enumerate(plan.chunks)
                if chunk.drafts
            ]
            try:
                self._guess(plan, guessers, table_changes)
            except StepError as error:
                log.warning("scheduler.speculative_model: a step without drafts: %s", error)
            for guesser in guessers:
                self._fill_in(plan, guesser)
        plan.drafting_seconds = perf_counter() - started

    def _guess(self, plan: StepPlan, guessers: list[_Guesser], table_changes: TableChanges) -> None:
        guessing, logits = self._follow(plan, guessers, table_changes)
        known = table_changes[0][:1], table_changes[1][:1]  # one entry has to be stated; it is there by now
        while guessing:
            started = perf_counter()
            tokens = self.sampler.choose(self._fitted(logits), [guesser.state for guesser in guessing])
            for guesser, token in zip(guessing, tokens, strict=True):
                if not isinstance(token, StepError):  # as where an answer's form is complete
                    guesser.drafts.append(token)
                    guesser.state.observe(token)
            chosen = zip(guessing, tokens, strict=True)
            guessing = [g for g, token in chosen if not isinstance(token, StepError) and not g.is_done]
            if guessing:
                logits = self._go_on(guessing, known, started)

    def _follow(
        self, plan: StepPlan, guessers: list[_Guesser], table_changes: TableChanges
    ) -> tuple[list[_Guesser], np.ndarray]:
        """Compute what is lacking up to the end of the plan's chunks, as far as a step holds it.

        Returns who can guess now, and the logits behind the last token of each.
        """
        started = perf_counter()
        by_place = {guesser.place: guesser for guesser in guessers}
        others = (place for place in range(len(plan.chunks)) if place not in by_place)
        parts: list[tuple[Sequence, int, int]] = []
        ready: list[_Guesser] = []
        logit_indices: list[int] = []
        left = self.max_num_tokens
        for place in (*by_place, *others):
            sequence, end = plan.chunks[place].sequence, plan.chunks[place].end
            start = self._origin(sequence) + self.pages.num_computed(self._blocks(sequence))
            stop = min(end, start + left)
            if stop == start:
                continue
            parts.append((sequence, start, stop))
            left -= stop - start
            if stop == end and place in by_place:
                ready.append(by_place[place])
                logit_indices.append(self.max_num_tokens - left - 1)
        logits = self._run(
            np.concatenate([np.array(s.token_ids[start:stop], np.int32) for s, start, stop in parts]),
            np.concatenate([np.arange(start, stop, dtype=np.int32) for _, start, stop in parts]),
            np.repeat([s.row for s, _, _ in parts], [stop - start for _, start, stop in parts]).astype(np.int32),
            np.array(logit_indices, np.int32),
            table_changes,
        )
        for sequence, _, stop in parts:
            self._count(sequence, stop)
        self._observe(self.max_num_tokens - left, started)
        return ready, logits

    def _go_on(self, guessing: list[_Guesser], known: TableChanges, started: float) -> np.ndarray:
        """Compute the latest draft of each; returns the logits behind it."""
        ends = [guesser.chunk.end + len(guesser.drafts) for guesser in guessing]
        logits = self._run(
            np.array([guesser.drafts[-1] for guesser in guessing], np.int32),
            np.array(ends, np.int32) - 1,
            np.array([guesser.chunk.sequence.row for guesser in guessing], np.int32),
            np.arange(len(guessing), dtype=np.int32),
            known,
        )
        for guesser, end in zip(guessing, ends, strict=True):
            self._count(guesser.chunk.sequence, end)
        self._observe(len(guessing), started)
        return logits

    def _fill_in(self, plan: StepPlan, guesser: _Guesser) -> None:
        if not guesser.is_done:
            self.cache.trim(guesser.chunk.sequence.row, guesser.chunk.end + len(guesser.drafts))
        plan.add_drafts(guesser.place, guesser.drafts)

    def _run(self, input_ids, positions, rows, logit_indices, table_changes: TableChanges) -> np.ndarray:
        input_ids = np.where(input_ids < self.own_vocab_size, input_ids, 0).astype(np.int32)
        return self.runner.run(StepInputs(input_ids, positions, rows, logit_indices, *table_changes))

    def _fitted(self, logits: np.ndarray) -> np.ndarray:
        lacking = self.vocab_size - logits.shape[1]
        if lacking > 0:
            return np.pad(logits, ((0, 0), (0, lacking)), constant_values=-np.inf)
        return logits[:, : self.vocab_size]

    def _origin(self, sequence: Sequence) -> int:
        """The first token of the row's blocks: a window has left behind what stood before."""
        return self.cache.table.first(sequence.row) * self.cache.block_size

    def _blocks(self, sequence: Sequence) -> list[int]:
        return self.cache.table.blocks(sequence.row)

    def _count(self, sequence: Sequence, end: int) -> None:
        self.pages.fill(self._blocks(sequence), end - self._origin(sequence))

    def _observe(self, num_tokens: int, started: float) -> None:
        if self.draft_length is not None:
            self.draft_length.observe_draft_step(num_tokens, perf_counter() - started)
