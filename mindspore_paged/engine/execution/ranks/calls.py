"""What the ranks of a group do together: a call of the same method of each rank's runner, and what came of it."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mindspore_paged.cache.page_layout import as_stored, by_heads
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.errors import GroupError, StepError
from mindspore_paged.step_inputs import StepInputs

STEPS = frozenset({"run", "run_hidden"})
"""The methods of a RankRunner whose result is the same on every rank."""

CALLS = frozenset({*STEPS, "copy_blocks", "read_pages", "write_pages", "block_tables"})
"""The methods of a RankRunner that a Call may name."""


class RankRunner(Runner, Protocol):
    """The Runner of one rank: its part of the model over its part of the pages."""

    def buckets_of(self, inputs: StepInputs) -> tuple[int, ...]:
        """Token counts of the graphs that STEPS run for these inputs, in order."""


@dataclass(frozen=True)
class Call:
    """Call `number` of a group, counted from 1: which method of the runner, with what, and in which graphs it runs."""

    number: int
    method: str
    arguments: tuple[Any, ...] = ()
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a call on one rank: a result, or the text of its StepError; and the graphs it has compiled so far.

    What a step gives stays where it is: every rank has the same, and the leader its own.
    """

    number: int
    result: Any
    error: str | None
    num_compiles: int
    compiles_after_warmup: int


def buckets_of(runner: RankRunner, method: str, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """The graphs of steps that a call runs in."""
    return runner.buckets_of(*arguments) if method in STEPS else ()


def check_call(runner: RankRunner, call: Call, number: int) -> None:
    """Raise GroupError, before anything runs, unless this is call `number` and this rank has the graphs it needs.

    Ranks in different graphs wait for each other for ever, or add up what does not belong together.
    """
    if call.number != number or call.method not in CALLS:
        raise GroupError(f"the leader asks for call {call.number} ({call.method}); this rank is at call {number}")
    own = buckets_of(runner, call.method, call.arguments)
    if own != call.buckets:
        raise GroupError(
            f"step {number} runs in graphs of {list(call.buckets)} tokens on the leader, of {list(own)} on this rank; "
            "all ranks need the same configuration"
        )


def perform(runner: RankRunner, call: Call) -> Outcome:
    """Do one rank's part of a call."""
    result = error = None
    try:
        result = getattr(runner, call.method)(*call.arguments)
    except StepError as failure:
        error = str(failure)
    return Outcome(call.number, result, error, runner.num_compiles, runner.compiles_after_warmup)


def join_pages(parts: list[np.ndarray], kv_heads: list[range]) -> np.ndarray:
    """One whole page [layers, 2, block_size, num_kv_heads, head_dim] from the parts of all ranks.

    kv_heads: which heads each rank has; of ranks that have the same head the first one counts.
    """
    owners = {heads.start: part for heads, part in reversed(list(zip(kv_heads, parts, strict=True)))}
    return as_stored(np.concatenate([by_heads(owners[start]) for start in sorted(owners)], axis=-2))


def cut_page(page: np.ndarray, heads: range) -> np.ndarray:
    """One rank's part of a whole page: its KV heads, as an array of its own."""
    return as_stored(np.ascontiguousarray(by_heads(page)[..., heads.start : heads.stop, :]))
