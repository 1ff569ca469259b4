"""Which sequences run in the next step, how many tokens of each, and whose pages go when there are too few."""

from bisect import insort
from itertools import chain, islice
from time import perf_counter

from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor, class_of, output_limit
from mindspore_paged.engine.scheduling.policies import SchedulingPolicy, policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.engine.scheduling.step_plan import Chunk, StepPlan
from mindspore_paged.errors import ConfigError, IntegrityError

MAX_PASSED_OVER = 16
"""A waiting sequence that does not fit is overtaken by later ones this often; then they wait behind it."""


class Scheduler:
    """Continuous batching in order of rank, chunked prefill beside decode, preemption of the worst ranked.

    `add`, `schedule`, `commit`, `accept_draft`, `drop_drafts`, `fork`, `roll_back`, `give_up` and `finish` mutate. The
    best ranked unfinished sequence is never preempted, so it always goes on and no two sequences can evict each other
    for ever (see `policies`).

    max_model_len: bounds an answer's length where prediction asks. policy: ranks requests; None is first come, first
    served. predictor: learns how long answers are; with reserve_predicted a sequence is admitted only where its
    expected length fits beside those that run. prefill_window: keeps long prefills to a share of the steps.
    contiguous_priority: requests of this priority and above get their pages as one run, if there is one.
    reserve_max_model_len: admit a sequence only where max_model_len tokens fit, as a contiguous cache has to.
    speculation: lets sequences that decode guess ahead where a step has room; None gives each a token a step.
    max_num_logits: rows of logits of a step, at least as many as there are rows for sequences; None: one a token.
    """

    def __init__(
        self,
        cache: CacheManager,
        max_num_batched_tokens: int,
        enable_chunked_prefill: bool = True,
        *,
        max_model_len: int | None = None,
        policy: SchedulingPolicy | None = None,
        predictor: LengthPredictor | None = None,
        reserve_predicted: bool = True,
        prefill_window: PrefillWindow | None = None,
        contiguous_priority: int | None = None,
        reserve_max_model_len: bool = False,
        speculation: Speculation | None = None,
        max_num_logits: int | None = None,
    ):
        self.cache = cache
        self.max_num_batched_tokens = max_num_batched_tokens
        self.enable_chunked_prefill = enable_chunked_prefill
        self._chunk_tokens = max_num_batched_tokens if enable_chunked_prefill else None
        self.max_model_len = max_model_len or cache.table.max_blocks_per_seq * cache.block_size
        self.policy = policy or policy_by_name("fcfs", lambda request: 0)
        self.predictor = predictor
        self.reserve_predicted = reserve_predicted and predictor is not None
        self.prefill_window = prefill_window
        self.contiguous_priority = contiguous_priority
        self.reserve_max_model_len = reserve_max_model_len
        self.speculation = speculation
        self.max_num_logits = max_num_batched_tokens if max_num_logits is None else max_num_logits
        if prefill_window is not None and not enable_chunked_prefill:
            raise ConfigError("scheduler.long_prefill_share needs scheduler.enable_chunked_prefill")
        self.waiting: list[Sequence] = []  # both lists in order of rank
        self.running: list[Sequence] = []
        self._holder_of_row: dict[int, str] = {}  # to name who leaks
        self._pooling: set[Sequence] = set()  # of those that wait or run
        self._pooled_last = False
        self.num_steps = 0
        self.num_preemptions = 0
        self.num_admitted_tokens = 0  # of all sequences that started, or restarted
        self.num_cached_tokens = 0  # those of them that the cache already held

    @property
    def most_blocks_per_seq(self) -> int:
        """Blocks that the longest sequence holds at once."""
        return self.cache.most_blocks(self.max_model_len, self._chunk_tokens)

    @property
    def has_unfinished(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def prefix_cache_hit_rate(self) -> float:
        """Share of the tokens of all sequences that started, or restarted, which the cache already held."""
        return self.num_cached_tokens / self.num_admitted_tokens if self.num_admitted_tokens else 0.0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that holds no pages; its request is ranked the first time."""
        if sequence.request.rank is None:
            sequence.request.rank = self.policy.rank(sequence.request, self.num_steps)
        insort(self.waiting, sequence, key=_order)
        if sequence.pooled is not None:
            self._pooling.add(sequence)

    def schedule(self) -> StepPlan:
        """Plan the next step and allocate its pages; raises IntegrityError if work is left but none can run."""
        plan = self._plan_quarantine() or self._plan_step()
        while not plan.chunks and self._give_up_held():
            plan = self._plan_quarantine() or self._plan_step()
        if not plan.chunks and self.has_unfinished:
            raise IntegrityError("sequences are left, but none of them can run")
        self.num_steps += 1
        if self.prefill_window is not None:
            self.prefill_window.record(plan.num_long_prefill_tokens)
        return plan

    def commit(self, plan: StepPlan) -> None:
        """Record that the plan's tokens are in the cache.

        Blocks that are now full enter the prefix index, and those that a window has left behind go back.

        Drafts do not count: what they wrote lies behind the sequence's tokens, where the next step writes.
        """
        for chunk in plan.chunks:
            sequence, end = chunk.sequence, chunk.end
            sequence.num_computed_tokens = end
            sequence.quarantined = sequence.quarantined and not chunk.is_last
            sequence.is_long_prefill = sequence.is_long_prefill and not chunk.is_last
            self._settle_pages(sequence)

    def accept_draft(self, sequence: Sequence) -> None:
        """Record that the first token that was not in the cache is, because a draft of the last step equals it."""
        sequence.num_computed_tokens += 1
        self._settle_pages(sequence)

    def drop_drafts(self, sequence: Sequence) -> None:
        """Give back the blocks that a running sequence had for drafts alone."""
        self.cache.trim(sequence.row, sequence.num_computed_tokens)

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let a new sequence share all of a running one's pages; False if no row is free, and it must be added."""
        row = self.cache.fork(parent.row, parent.num_computed_tokens)
        if row is None:
            return False
        child.row = row
        self._holder_of_row[row] = child.request.request_id
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_registered_blocks = parent.num_registered_blocks
        insort(self.running, child, key=_order)
        return True

    def roll_back(self, plan: StepPlan) -> list[Sequence]:
        """Undo a step that failed on the device.

        Its sequences lose their pages, which the step may have half written, and start over one at a time: whoever is
        the cause then fails alone. Returns the sequence that did, to be ended with an error, if there is one.
        """
        culprits = [sequence for sequence in plan.sequences if sequence.quarantined]
        for sequence in plan.sequences:
            if sequence.row is not None:  # an interrupt may come when some have ended already
                self.give_up(sequence)
                sequence.quarantined = True
        return culprits

    def give_up(self, sequence: Sequence) -> None:
        """Take a running sequence's pages and queue it again; it is computed again from its tokens, none lost.

        A beam that waits for others is not queued: it has nothing to compute before it gets its next token.
        """
        self._take_pages(sequence)
        if not sequence.is_held:
            self.add(sequence)

    def finish(self, sequence: Sequence, reason: str) -> None:
        """End a sequence, running or waiting or neither yet, and take its pages back."""
        sequence.finish_reason = reason
        self._pooling.discard(sequence)
        if sequence.row is not None:
            self._take_pages(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        if self.predictor is not None and sequence.pooled is None and reason in ("stop", "length"):
            self.predictor.observe(class_of(sequence.request), sequence.num_output_tokens)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless exactly the running sequences hold rows, each covered by its blocks."""
        rows = {sequence.row: sequence for sequence in self.running}
        if None in rows or len(rows) != len(self.running) or any(s.row is not None for s in self.waiting):
            raise IntegrityError("a running sequence has no row of its own, or a waiting one has one")
        for row in self.cache.table.rows_in_use():
            if row not in rows:
                holder = self._holder_of_row.get(row, "nobody known")
                blocks = self.cache.table.num_blocks(row)
                raise IntegrityError(f"{holder} does not run, but its row {row} still holds {blocks} blocks: a leak")
        self.cache.check_integrity({row: (s.num_computed_tokens, s.request.request_id) for row, s in rows.items()})

    def _plan_step(self) -> StepPlan:
        """Steps that pool and steps that sample come from different graphs: they take turns where both can run."""
        plan = StepPlan()
        for pools in self._kinds_in_turn():
            plan = self._plan_kind(pools)
            if plan.chunks:
                self._pooled_last = pools
                break
        return plan

    def _kinds_in_turn(self) -> list[bool]:
        if not self._pooling:
            return [False]
        return [not self._pooled_last, self._pooled_last]

    def _plan_kind(self, pools: bool) -> StepPlan:
        plan = StepPlan()
        preempted_before = self.num_preemptions
        allowance = self._long_prefill_allowance()
        for sequence in self._running_in_turn():
            # It may have been preempted for a better ranked one meanwhile.
            if sequence.row is not None and (sequence.pooled is not None) == pools:
                self._plan_chunk(plan, sequence, allowance)
        if self.num_preemptions == preempted_before:
            self._admit_waiting(plan, allowance, pools)
        if self.speculation is not None:
            self.speculation.add_drafts(
                plan, self.cache, self.max_num_batched_tokens, self.max_model_len, self.max_num_logits
            )
        return plan

    def _running_in_turn(self) -> list[Sequence]:
        """Decodes first, so that a long prompt does not hold up those who are answering; then what is left of prompts.

        A long prefill goes before short ones: the share that it gets of a window is a promise as well as a limit.
        A prompt that cannot be cut keeps its rank instead, or later ones would leave it too small a budget for ever.
        """
        if not self.enable_chunked_prefill:
            return list(self.running)
        return sorted(self.running, key=lambda s: s.num_uncomputed_tokens > 1 and 1 + (not s.is_long_prefill))

    def _give_up_held(self) -> bool:
        """Take the pages of a beam that waits for others, the worst ranked one; False if there is none that runs.

        Beams that wait hold pages without a need: those that they wait for may have no room beside them.
        """
        held = next((sequence for sequence in reversed(self.running) if sequence.is_held), None)
        if held is None:
            return False
        self.give_up(held)
        self.num_preemptions += 1
        return True

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

    def _plan_chunk(self, plan: StepPlan, sequence: Sequence, allowance: int) -> None:
        """Add the sequence's next tokens to the plan, preempting the worst ranked until their pages fit."""
        wanted = sequence.num_uncomputed_tokens
        num_tokens = min(wanted, self._budget(plan, sequence, allowance), self._most_logits(plan, sequence))
        if num_tokens <= 0 or (num_tokens < wanted and not self.enable_chunked_prefill):
            return
        start = sequence.num_computed_tokens
        while not self.cache.grow(sequence.row, start, start + num_tokens):
            victim = self.running[-1]
            plan.drop(victim)
            self.give_up(victim)
            self.num_preemptions += 1
            if victim is sequence:
                return
        plan.add(Chunk(sequence, start, num_tokens, wants_all=sequence.wants_all_logits))

    def _budget(self, plan: StepPlan, sequence: Sequence, allowance: int) -> int:
        budget = self.max_num_batched_tokens - plan.num_tokens
        return min(budget, allowance - plan.num_long_prefill_tokens) if sequence.is_long_prefill else budget

    def _most_logits(self, plan: StepPlan, sequence: Sequence) -> int:
        """Tokens of a sequence that the step's rows of logits leave room for; all others that run have one, too."""
        left = self.max_num_logits - plan.num_logits
        if not sequence.wants_all_logits:
            return self.max_num_batched_tokens if left > 0 or sequence.pooled is not None else 0
        others = len(self.running) - len(plan.chunks) - 1
        return left - max(0, others)

    def _admit_waiting(self, plan: StepPlan, allowance: int, pools: bool) -> None:
        if not self.waiting or self.cache.table.num_free_rows == 0:
            return
        room = self._room_for_newcomers()
        for sequence in list(self.waiting):
            if plan.num_tokens == self.max_num_batched_tokens or self.cache.table.num_free_rows == 0:
                return
            if (sequence.pooled is not None) != pools:
                continue
            if self._is_long(sequence) and plan.num_long_prefill_tokens >= allowance:
                continue  # its turn comes with the window's, not with room
            wanted = self._wanted_blocks(sequence)
            if (wanted <= room or not self.running) and self._admit(sequence):
                room -= wanted
                self._plan_chunk(plan, sequence, allowance)
            elif sequence.num_passed_over < MAX_PASSED_OVER:
                sequence.num_passed_over += 1
            else:
                return

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence a row, with the blocks that the prefix cache has for it; False if it does not fit."""
        is_found = self.cache.enable_prefix_caching and sequence.takes_cached
        hashes = sequence.extend_hashes(self.cache.block_size) if is_found else []
        contiguous_tokens = self._contiguous_tokens(sequence)
        admitted = self.cache.admit(hashes, sequence.num_tokens, contiguous_tokens, self._chunk_tokens)
        if admitted is None:
            return False
        sequence.row, sequence.num_computed_tokens = admitted
        self._holder_of_row[sequence.row] = sequence.request.request_id
        sequence.num_registered_blocks = sequence.num_computed_tokens // self.cache.block_size
        sequence.num_passed_over = 0
        sequence.is_long_prefill = self._is_long(sequence)
        self.num_admitted_tokens += sequence.num_tokens
        self.num_cached_tokens += sequence.num_computed_tokens
        if sequence.request.first_scheduled_time is None:
            sequence.request.first_scheduled_time = perf_counter()
            sequence.request.num_cached_tokens = sequence.num_computed_tokens
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_order)
        return True

    def _room_for_newcomers(self) -> int:
        """Blocks that are left when those who run have grown to what is set aside for them."""
        pool, table = self.cache.pool, self.cache.table
        room = pool.num_available + pool.num_withheld
        if self.reserve_predicted or self.reserve_max_model_len:
            room -= sum(max(0, self._wanted_blocks(s) - table.num_blocks(s.row)) for s in self.running)
        return room

    def _wanted_blocks(self, sequence: Sequence) -> int:
        """Blocks to set aside for a sequence: all it may ever need, for its predicted length, or none ahead of need."""
        if self.reserve_max_model_len:
            return self.most_blocks_per_seq
        if not self.reserve_predicted:
            return 0
        return self.cache.most_blocks(self._expected_tokens(sequence), self._chunk_tokens)

    def _expected_tokens(self, sequence: Sequence) -> int:
        """Tokens that a sequence will have in the cache when it ends, as far as anyone knows."""
        request = sequence.request
        length = limit = output_limit(request, self.max_model_len)
        if self.predictor is not None:
            length = self.predictor.predict(class_of(request), sequence.num_output_tokens, limit)
        return len(request.prompt_token_ids) + length - 1  # the last token of an answer is never computed

    def _contiguous_tokens(self, sequence: Sequence) -> int:
        if self.contiguous_priority is None or sequence.request.priority < self.contiguous_priority:
            return 0
        return self._expected_tokens(sequence)

    def _is_long(self, sequence: Sequence) -> bool:
        return self.prefill_window is not None and self.prefill_window.is_long(sequence.num_uncomputed_tokens)

    def _long_prefill_allowance(self) -> int:
        """Tokens that long prefills may take in the coming step."""
        if self.prefill_window is None:
            return self.max_num_batched_tokens
        short_newcomers = (s for s in self.waiting if not self._is_long(s))
        others = chain(
            (s for s in self.running if not s.is_long_prefill),
            islice(short_newcomers, self.cache.table.num_free_rows),  # the rest cannot come in anyway
        )
        return self.prefill_window.allowance(sum(s.num_uncomputed_tokens for s in others))

    def _settle_pages(self, sequence: Sequence) -> None:
        num_full_blocks = sequence.num_computed_tokens // self.cache.block_size
        if num_full_blocks > sequence.num_registered_blocks:
            hashes = sequence.extend_hashes(self.cache.block_size)
            self.cache.register(sequence.row, hashes, sequence.num_registered_blocks, num_full_blocks)
            sequence.num_registered_blocks = num_full_blocks
        self.cache.give_back(sequence.row, sequence.num_computed_tokens)

    def _take_pages(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.free(sequence.row)
        del self._holder_of_row[sequence.row]
        sequence.row = None
        sequence.num_computed_tokens = 0
        sequence.num_registered_blocks = 0
        sequence.is_long_prefill = False


def _order(sequence: Sequence) -> tuple:
    return sequence.order
