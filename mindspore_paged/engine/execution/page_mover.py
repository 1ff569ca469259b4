"""Whole pages on the move around a step: saved, loaded, copied, compacted, and how many of them may be used."""

from time import perf_counter

from mindspore_paged.cache.compaction import CompactionTrigger
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.engine.scheduling.step_plan import StepPlan
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import StepError

MAX_MOVES = 256
"""Blocks that one compaction moves; what is left waits for the next."""

PREFETCHED_SEQUENCES = 4
"""Waiting sequences whose pages are brought up from the file tier while others run."""


class PageMover:
    """Does what CacheManager asks of the device; `before_schedule`, `transfer` and `after_step` mutate.

    host_tier: where evicted pages are saved; None drops them. trigger: when to compact; None never does.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        host_tier: HostTier | None = None,
        trigger: CompactionTrigger | None = None,
        swap_cost: SwapCost | None = None,
    ):
        self.scheduler = scheduler
        self.cache = scheduler.cache
        self.runner = runner
        self.host_tier = host_tier
        self.trigger = trigger
        self.swap_cost = swap_cost or SwapCost()
        self.num_compactions = 0
        self.num_blocks_moved = 0
        self.num_pages_saved = 0
        self.num_pages_loaded = 0

    @property
    def num_host_pages(self) -> int:
        """Pages in the host tier."""
        return 0 if self.host_tier is None else self.host_tier.statistics()["pages"]

    def before_schedule(self) -> None:
        """Follow the load, compact if it is due, and let the pages of whoever comes next be fetched meanwhile."""
        self.cache.adjust_capacity()
        if self._compaction_is_due():
            self.compact()
        if self.host_tier is not None:
            for sequence in self.scheduler.waiting[:PREFETCHED_SEQUENCES]:
                if sequence.takes_cached:
                    self.host_tier.prefetch(sequence.extend_hashes(self.cache.block_size))

    def transfer(self) -> None:
        """Move what the plan needs moved before it runs: what is about to be overwritten is saved first."""
        transfers = self.cache.take_transfers()
        self._save(transfers.saves)
        if transfers.loads:
            blocks, pages = map(list, zip(*transfers.loads, strict=True))
            started = perf_counter()
            self.runner.write_pages(blocks, pages)
            self.swap_cost.observe_pages(len(blocks), perf_counter() - started)
            self.num_pages_loaded += len(blocks)
        if transfers.copies:
            self.runner.copy_blocks(transfers.copies)

    def after_step(self, plan: StepPlan, seconds: float) -> None:
        """Learn from a step that took `seconds`."""
        if plan.num_tokens >= self.cache.block_size:
            self.swap_cost.observe_tokens(plan.num_tokens, seconds)
        if self.trigger is not None:
            self.trigger.observe(plan.num_tokens / seconds)

    def compact(self) -> int:
        """Move live pages together now; returns how many moved.

        If the device fails, the moved contents count as lost: names are forgotten, and rows start over.
        """
        pool = self.cache.pool
        pool.evict(self.cache.missed_run - pool.num_free)  # room for the run that was missed, if there is one
        self.transfer()  # a page that waits to be saved must not be moved over
        moves = self.cache.compact(MAX_MOVES)
        if not moves:
            return 0
        self.num_compactions += 1
        self.num_blocks_moved += len(moves)
        try:
            self.runner.copy_blocks(moves)
        except StepError:
            lost = set(self.cache.forget_blocks([destination for _, destination in moves]))
            for sequence in [s for s in self.scheduler.running if s.row in lost]:
                self.scheduler.give_up(sequence)
        return len(moves)

    def _compaction_is_due(self) -> bool:
        if self.trigger is None:
            return False
        pool = self.cache.pool
        missed = pool.free_runs.longest < self.cache.missed_run <= pool.num_available  # it pays: the run can be had
        if missed or self.trigger.is_due(pool.free_runs.fragmentation):
            self.trigger.reset()
            return True
        return False

    def _save(self, saves: list[tuple[int, bytes]]) -> None:
        if self.host_tier is None or not saves or not self.swap_cost.is_worth_saving(self.cache.block_size):
            return
        started = perf_counter()
        try:
            pages = self.runner.read_pages([block for block, _ in saves])
        except StepError:
            return  # what cannot be saved is computed again when it is wanted
        self.swap_cost.observe_pages(len(saves), perf_counter() - started)
        self.num_pages_saved += len(saves)
        for (_, name), page in zip(saves, pages, strict=True):
            self.host_tier.put(name, page)  # its checksum is computed beside the step
