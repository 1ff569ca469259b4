"""From a planned step to what the host sends to the device for it."""

from itertools import chain

import numpy as np

from mindspore_paged.engine.scheduling.step_plan import StepPlan
from mindspore_paged.step_inputs import NO_ADAPTER, StepInputs


def build_step_inputs(plan: StepPlan, table_changes: tuple[np.ndarray, np.ndarray]) -> StepInputs:
    """Lay the plan's tokens side by side, a sequence's together and in order.

    The last token of each chunk gives logits, and so do the drafts behind it.
    """
    counts = np.array([chunk.num_tokens + len(chunk.drafts) for chunk in plan.chunks], np.int32)
    starts = np.array([chunk.start for chunk in plan.chunks], np.int32)
    rows = np.array([chunk.sequence.row for chunk in plan.chunks], np.int32)
    num_logits = np.array([chunk.num_logits for chunk in plan.chunks], np.int32)
    ends, logit_ends = np.cumsum(counts, dtype=np.int32), np.cumsum(num_logits, dtype=np.int32)
    tokens = chain.from_iterable((*c.sequence.token_ids[c.start : c.end], *c.drafts) for c in plan.chunks)
    input_ids = np.fromiter(tokens, np.int32, count=plan.num_tokens)
    positions = np.arange(plan.num_tokens, dtype=np.int32) + np.repeat(starts - (ends - counts), counts)
    logit_indices = np.arange(num_logits.sum(), dtype=np.int32) + np.repeat(ends - logit_ends, num_logits)
    return StepInputs(
        input_ids, positions, np.repeat(rows, counts), logit_indices, *table_changes, _adapters(plan, counts)
    )


def _adapters(plan: StepPlan, counts: np.ndarray) -> np.ndarray | None:
    """The number of each token's adapter; None where no sequence has one."""
    adapters = [chunk.sequence.request.adapter for chunk in plan.chunks]
    if not any(adapters):
        return None
    numbers = [NO_ADAPTER if adapter is None else adapter.number for adapter in adapters]
    return np.repeat(np.array(numbers, np.int32), counts)
