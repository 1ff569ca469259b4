"""What the host sends to the device for one step: a few small int32 arrays."""

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from mindspore_paged.engine.scheduling.step_plan import StepPlan

PADDING = -1
"""A row, or a token whose logits are wanted, that is none."""


@dataclass(frozen=True)
class StepInputs:
    """The tokens of one step and the entries of block_table that changed, all int32.

    input_ids, positions, rows: [T]. logit_indices: [N], the tokens whose logits are wanted.
    table_indices: [C, 2] (row, column), C at least 1; table_values: [C] block ids.
    """

    input_ids: np.ndarray
    positions: np.ndarray
    rows: np.ndarray
    logit_indices: np.ndarray
    table_indices: np.ndarray
    table_values: np.ndarray

    @property
    def num_tokens(self) -> int:
        """T, without padding."""
        return len(self.input_ids)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The inputs of the graph, in the order that the model takes them."""
        return (
            self.input_ids,
            self.positions,
            self.rows,
            self.logit_indices,
            self.table_indices,
            self.table_values,
        )

    def padded(self, num_tokens: int, num_logits: int, num_entries: int) -> "StepInputs":
        """The same step with T, N and C as given: padding has row -1, or is token -1, and the first entry is
        repeated."""
        return StepInputs(
            _pad(self.input_ids, num_tokens, 0),
            _pad(self.positions, num_tokens, 0),
            _pad(self.rows, num_tokens, PADDING),
            _pad(self.logit_indices, num_logits, PADDING),
            _pad(self.table_indices, num_entries, self.table_indices[0]),
            _pad(self.table_values, num_entries, self.table_values[0]),
        )

    def split_table_changes(self, num_entries: int) -> list["StepInputs"]:
        """Steps to run in turn so that none has more than `num_entries` changes: all but the last have no tokens."""
        if len(self.table_values) <= num_entries:  # as in nearly every step
            return [self]
        cuts = range(num_entries, len(self.table_values), num_entries)
        indices, values = np.split(self.table_indices, cuts), np.split(self.table_values, cuts)
        parts = [table_only(*part) for part in zip(indices[:-1], values[:-1], strict=True)]
        return [*parts, replace(self, table_indices=indices[-1], table_values=values[-1])]


def table_only(table_indices: np.ndarray, table_values: np.ndarray) -> StepInputs:
    """A step without tokens, which only writes entries of block_table."""
    nothing = np.zeros(0, np.int32)
    return StepInputs(nothing, nothing, nothing, nothing, table_indices, table_values)


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
    return StepInputs(input_ids, positions, np.repeat(rows, counts), logit_indices, *table_changes)


def _pad(array: np.ndarray, length: int, value) -> np.ndarray:
    if len(array) == length:  # as in many a decode step
        return array
    padded = np.empty((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    padded[len(array) :] = value
    return padded
