"""From the beams of one length to those of the next, in pages: who goes on keeps its own, who splits shares them."""

from collections.abc import Iterator

import numpy as np

from mindspore_paged.engine.requests.beam_group import BeamGroup
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.engine.scheduling.step_plan import StepPlan
from mindspore_paged.errors import StepError


def ready_searches(plan: StepPlan, logits: np.ndarray) -> Iterator[tuple[Request, StepError | None]]:
    """Give beams what a step's logits [N, vocab_size] say of them; yields the requests whose beams all have that now.

    With each comes None, or the error that ends it.
    """
    for chunk, row in plan.rows_of_logits():
        request = chunk.sequence.request
        if request.beams is None or request.is_finished or not chunk.is_last:
            continue
        try:
            request.beams.take(chunk.sequence, logits[row])
        except StepError as error:
            yield request, error
        else:
            if request.beams.is_ready:
                yield request, None


def advance(group: BeamGroup, scheduler: Scheduler) -> None:
    """Let a group that is ready choose its next beams, and give each a token to compute, unless its search is done.

    Pages of beams that nobody goes on from go back first. A beam that was preempted while it waited for the others has
    no pages to share, and where no row is free there is none to share them: such beams are queued, and computed again
    from their tokens.
    """
    branching = group.branch()
    if group.search.is_done:
        return
    for sequence in branching.dropped:
        if sequence.row is not None:
            scheduler.give_up(sequence)
    for parent, child in branching.forks:
        child.branch_from(parent)
        if parent.row is not None:
            scheduler.fork(parent, child)
    group.go_on()
    for sequence in group.live:
        if sequence.row is None:
            scheduler.add(sequence)
