"""Writes down, step by step, who has which page."""

import logging

from mindspore_paged.cache.event_log import PoolEventLog, block_owners
from mindspore_paged.engine.execution.page_mover import PageMover
from mindspore_paged.engine.scheduling.scheduler import Scheduler

log = logging.getLogger("mindspore_paged")


class PoolRecorder:
    """Records an engine's pool in an event log; `record` and `close` mutate. event_log: None records nothing."""

    def __init__(self, event_log: PoolEventLog | None, scheduler: Scheduler, mover: PageMover):
        self._event_log = event_log
        self._scheduler = scheduler
        self._mover = mover

    def record(self, num_steps: int) -> None:
        """Write what the pool is like behind step `num_steps`; a full disk ends the record, not the run."""
        if self._event_log is None:
            return
        scheduler = self._scheduler
        owners = block_owners(scheduler.cache, {s.row: s.request.arrival + 1 for s in scheduler.running})
        try:
            self._event_log.record(
                num_steps,
                owners,
                running=len(scheduler.running),
                waiting=len(scheduler.waiting),
                preemptions=scheduler.num_preemptions,
                host_pages=self._mover.num_host_pages,
            )
        except OSError as error:
            log.warning("the pool's event log ends at step %d: %s", num_steps, error)
            self.close()

    def close(self) -> None:
        """Let go of the file; nothing is recorded afterwards."""
        if self._event_log is not None:
            self._event_log.close()
            self._event_log = None
