"""What a step takes, declared once: names, order, shapes and padding of a few small int32 arrays.

The host sends them and the ranks exchange them; compiled cells, exported graphs and whatever has a step's `construct`
take them in this order. The models are beneath the engine and know them too, so they are declared beneath both.
"""

from dataclasses import dataclass, replace
from typing import Annotated, get_origin, get_type_hints

import numpy as np

PADDING = -1
"""A row, or a token whose logits are wanted, that is none."""

NO_ADAPTER = -1
"""The adapter of a token that has none."""

FIRST = None
"""As padding: the array's first entry, again."""


@dataclass(frozen=True)
class StepInput:
    """An int32 array that a step takes: its shape, in which letters are sizes that are open, and what fills it up."""

    shape: tuple[str | int, ...]
    padding: int | None


@dataclass(frozen=True)
class StepInputs:
    """The tokens of one step and the entries of block_table that changed.

    T tokens; N of them whose logits are wanted; E entries, at least 1, as (row, column) and block id.
    adapters: int32 [T], the number of each token's adapter, or NO_ADAPTER; None: no token has one. A step that has no
    adapters does not take it.
    """

    input_ids: Annotated[np.ndarray, StepInput(("T",), 0)]
    positions: Annotated[np.ndarray, StepInput(("T",), 0)]
    rows: Annotated[np.ndarray, StepInput(("T",), PADDING)]
    logit_indices: Annotated[np.ndarray, StepInput(("N",), PADDING)]
    table_indices: Annotated[np.ndarray, StepInput(("E", 2), FIRST)]
    table_values: Annotated[np.ndarray, StepInput(("E",), FIRST)]
    adapters: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """T, without padding."""
        return len(self.input_ids)

    def arrays(self, with_adapters: bool = False) -> tuple[np.ndarray, ...]:
        """The inputs of the graph, in the order that the model takes them; with_adapters: of one that has adapters."""
        arrays = tuple(getattr(self, name) for name in STEP_INPUTS)
        if not with_adapters:
            return arrays
        adapters = np.full(self.num_tokens, NO_ADAPTER, np.int32) if self.adapters is None else self.adapters
        return (*arrays, adapters)

    def padded(self, num_tokens: int, num_logits: int, num_entries: int) -> "StepInputs":
        """The same step with T, N and E as given; what is filled up is no token, no wanted logits, no other entry."""
        sizes = {"T": num_tokens, "N": num_logits, "E": num_entries}
        of_step = zip(STEP_INPUTS.values(), self.arrays(), strict=True)
        adapters = None if self.adapters is None else _pad(self.adapters, num_tokens, NO_ADAPTER)
        return StepInputs(*(_pad(array, sizes[each.shape[0]], each.padding) for each, array in of_step), adapters)

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


STEP_INPUTS: dict[str, StepInput] = {
    name: annotated.__metadata__[0]
    for name, annotated in get_type_hints(StepInputs, include_extras=True).items()
    if get_origin(annotated) is Annotated
}
"""Each input that every step takes by its name, in the order in which a step takes them."""


def _pad(array: np.ndarray, length: int, padding: int | None) -> np.ndarray:
    if len(array) == length:  # as in many a decode step
        return array
    padded = np.empty((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    padded[len(array) :] = array[0] if padding is FIRST else padding
    return padded
