"""Which sequences run in the next step, how many tokens of each, and whose pages go when there are too few."""

from bisect import insort
from dataclasses import dataclass, field

from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.sequence import Sequence
from mindspore_paged.errors import IntegrityError

MAX_PASSED_OVER = 16
"""A waiting sequence that does not fit is overtaken by later ones this often; then they wait behind it."""


@dataclass(frozen=True)
class Chunk:
    """Tokens start .. start + num_tokens - 1 of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def end(self) -> int:
        """First token after the chunk."""
        return self.start + self.num_tokens

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to compute after it, so that its last logits give the next token."""
        return self.end == self.sequence.num_tokens


@dataclass
class StepPlan:
    """The chunks of one step, in the order in which their tokens are laid out."""

    chunks: list[Chunk] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences that take part."""
        return [chunk.sequence for chunk in self.chunks]


class Scheduler:
    """Continuous batching, first come first served, chunked prefill beside decode, preemption by recompute.

    `add`, `schedule`, `commit`, `roll_back` and `finish` mutate. The earliest unfinished sequence is never preempted
    for a later one, so it always goes on and no two sequences can evict each other for ever.
    """

    def __init__(self, cache: CacheManager, max_num_batched_tokens: int, enable_chunked_prefill: bool = True):
        self.cache = cache
        self.max_num_batched_tokens = max_num_batched_tokens
        self.enable_chunked_prefill = enable_chunked_prefill
        self.waiting: list[Sequence] = []  # both lists in order of arrival
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._num_admitted_tokens = 0
        self._num_cached_tokens = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def prefix_cache_hit_rate(self) -> float:
        """Share of the tokens of all sequences that started, or restarted, which the cache already held."""
        return self._num_cached_tokens / self._num_admitted_tokens if self._num_admitted_tokens else 0.0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that holds no pages."""
        insort(self.waiting, sequence, key=_arrival)

    def schedule(self) -> StepPlan:
        """Plan the next step and allocate its pages; raises IntegrityError if work is left but none can run."""
        plan = self._plan_quarantine() or self._plan_step()
        if not plan.chunks and self.has_unfinished:
            raise IntegrityError("sequences are left, but none of them can run")
        return plan

    def commit(self, plan: StepPlan) -> None:
        """Record that the plan's tokens are in the cache; blocks that are now full enter the prefix index."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.num_computed_tokens = chunk.end
            sequence.quarantined = sequence.quarantined and not chunk.is_last
            num_full_blocks = chunk.end // self.cache.block_size
            if num_full_blocks > sequence.num_registered_blocks:
                hashes = sequence.extend_hashes(self.cache.block_size)
                self.cache.register(sequence.row, hashes, sequence.num_registered_blocks, num_full_blocks)
                sequence.num_registered_blocks = num_full_blocks

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let a new sequence share all of a running one's pages; False if no row is free, and it must be added."""
        row = self.cache.fork(parent.row)
        if row is None:
            return False
        child.row = row
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_registered_blocks = parent.num_registered_blocks
        insort(self.running, child, key=_arrival)
        return True

    def roll_back(self, plan: StepPlan) -> list[Sequence]:
        """Undo a step that failed on the device.

        Its sequences lose their pages, which the step may have half written, and start over one at a time: whoever is
        the cause then fails alone. Returns the sequence that did, to be ended with an error, if there is one.
        """
        culprits = [sequence for sequence in plan.sequences if sequence.quarantined]
        for sequence in plan.sequences:
            self._give_up_pages(sequence)
            sequence.quarantined = True
            self.add(sequence)
        return culprits

    def finish(self, sequence: Sequence, reason: str) -> None:
        """End a sequence, running or waiting or neither yet, and take its pages back."""
        sequence.finish_reason = reason
        if sequence.row is not None:
            self._give_up_pages(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless exactly the running sequences hold rows, each covered by its blocks."""
        self.cache.check_integrity()
        rows = [sequence.row for sequence in self.running]
        if None in rows or len(set(rows)) != len(rows) or any(s.row is not None for s in self.waiting):
            raise IntegrityError("a running sequence has no row of its own, or a waiting one has one")
        if self.cache.table.num_free_rows + len(rows) != len(self.cache.table.block_tables):
            raise IntegrityError("a row of block_table belongs to no sequence")
        for sequence in self.running:
            blocks = self.cache.table.num_blocks(sequence.row)
            if blocks != self.cache.blocks_for(sequence.num_computed_tokens):
                raise IntegrityError(
                    f"request {sequence.request.request_id} holds {blocks} blocks for "
                    f"{sequence.num_computed_tokens} tokens"
                )

    def _plan_step(self) -> StepPlan:
        plan = StepPlan()
        budget = self.max_num_batched_tokens
        preempted_before = self.num_preemptions
        # Decodes first: a long prompt must not hold up those who are already answering. A prompt that cannot be cut
        # into chunks keeps its place instead, or later arrivals would leave it too small a budget for ever.
        decodes_first = self.enable_chunked_prefill
        for sequence in sorted(self.running, key=lambda s: decodes_first and s.num_uncomputed_tokens > 1):
            if sequence.row is not None:  # it may have been preempted for an earlier one meanwhile
                budget = self.max_num_batched_tokens - plan.num_tokens
                self._plan_chunk(plan, sequence, budget)
        if self.num_preemptions == preempted_before:
            self._admit_waiting(plan)
        return plan

    def _plan_quarantine(self) -> StepPlan | None:
        """A step of one suspect of an earlier failure, alone; None if there is no suspect, or no room for it yet."""
        suspect = next((s for s in self.running if s.quarantined), None)
        if suspect is None:
            suspect = next((s for s in self.waiting if s.quarantined), None)
            if suspect is None or not self._admit(suspect):
                return None
        plan = StepPlan()
        self._plan_chunk(plan, suspect, self.max_num_batched_tokens)
        return plan if plan.chunks else None

    def _plan_chunk(self, plan: StepPlan, sequence: Sequence, budget: int) -> None:
        """Add the sequence's next tokens to the plan, preempting the latest arrivals until their pages fit."""
        num_tokens = min(sequence.num_uncomputed_tokens, budget)
        if num_tokens == 0 or (num_tokens < sequence.num_uncomputed_tokens and not self.enable_chunked_prefill):
            return
        start = sequence.num_computed_tokens
        while not self.cache.grow(sequence.row, start, start + num_tokens):
            victim = self.running[-1]
            self._preempt(victim, plan)
            if victim is sequence:
                return
        plan.chunks.append(Chunk(sequence, start, num_tokens))

    def _admit_waiting(self, plan: StepPlan) -> None:
        for sequence in list(self.waiting):
            budget = self.max_num_batched_tokens - plan.num_tokens
            if budget == 0 or self.cache.table.num_free_rows == 0:
                return
            if self._admit(sequence):
                self._plan_chunk(plan, sequence, budget)
            elif sequence.num_passed_over < MAX_PASSED_OVER:
                sequence.num_passed_over += 1
            else:
                return

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence a row, with the blocks that the prefix cache has for it; False if it does not fit."""
        hashes = sequence.extend_hashes(self.cache.block_size) if self.cache.enable_prefix_caching else []
        admitted = self.cache.admit(hashes, sequence.num_tokens)
        if admitted is None:
            return False
        sequence.row, sequence.num_computed_tokens = admitted
        sequence.num_registered_blocks = sequence.num_computed_tokens // self.cache.block_size
        sequence.num_passed_over = 0
        self._num_admitted_tokens += sequence.num_tokens
        self._num_cached_tokens += sequence.num_computed_tokens
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_arrival)
        return True

    def _preempt(self, sequence: Sequence, plan: StepPlan) -> None:
        """Take a sequence's pages; it is computed again from its tokens, none of which is lost."""
        plan.chunks = [chunk for chunk in plan.chunks if chunk.sequence is not sequence]
        self._give_up_pages(sequence)
        self.num_preemptions += 1
        self.add(sequence)

    def _give_up_pages(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.free(sequence.row)
        sequence.row = None
        sequence.num_computed_tokens = 0
        sequence.num_registered_blocks = 0


def _arrival(sequence: Sequence) -> tuple[int, int]:
    return sequence.arrival
