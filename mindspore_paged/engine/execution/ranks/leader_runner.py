"""A Runner whose every call is done by all ranks of a group."""

import weakref
from typing import Any

import numpy as np

from mindspore_paged.engine.execution.ranks.calls import Call, RankRunner, buckets_of, cut_page, join_pages, perform
from mindspore_paged.engine.execution.ranks.channel import LeaderChannel
from mindspore_paged.errors import GroupError, StepError
from mindspore_paged.launch import states, supervision
from mindspore_paged.step_inputs import StepInputs


class LeaderRunner:
    """Does each call together with the followers, and holds that it ended alike everywhere.

    runner: the leader's own part. kv_heads: the KV heads of each rank, the leader's first.
    weight_bytes, kv_cache_bytes: of the leader, like those of every rank. num_compiles, compiles_after_warmup: of the
    rank that has the most. Pages are whole ones, as if one rank had all KV heads.
    Every call raises StepError if all ranks failed, and otherwise GroupError, after the job's supervisor was told, if
    the ranks are no longer in step.
    """

    def __init__(self, runner: RankRunner, channel: LeaderChannel, kv_heads: list[range]):
        self._runner = runner
        self._channel = channel
        self._kv_heads = kv_heads
        self._number = 0
        self.num_ranks = len(kv_heads)
        self.weight_bytes, self.kv_cache_bytes = runner.weight_bytes, runner.kv_cache_bytes
        self._followers_compiles = self._followers_compiles_after_warmup = 0
        # A script that ends without closing its LLM has ended well for all that: its own exit code says how.
        self._close = weakref.finalize(self, channel.close)

    @property
    def num_compiles(self) -> int:
        """Graphs compiled so far."""
        return max(self._runner.num_compiles, self._followers_compiles)

    @property
    def compiles_after_warmup(self) -> int:
        """Graphs compiled since the engine was ready."""
        return max(self._runner.compiles_after_warmup, self._followers_compiles_after_warmup)

    def run(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step; returns logits float32 [N, vocab_size]."""
        return self._all_do("run", inputs)[0]

    def run_hidden(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step without its head; returns float32 [N, hidden_size]."""
        return self._all_do("run_hidden", inputs)[0]

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole pages (source, destination), in order."""
        self._all_do("copy_blocks", pairs)

    def read_pages(self, block_ids: list[int]) -> list[np.ndarray]:
        """Whole pages, each [layers, 2, block_size, num_kv_heads, head_dim]."""
        of_ranks = self._all_do("read_pages", block_ids)
        return [join_pages(list(parts), self._kv_heads) for parts in zip(*of_ranks, strict=True)]

    def write_pages(self, block_ids: list[int], pages: list[np.ndarray]) -> None:
        """Put whole pages into blocks, each rank its heads."""
        of_ranks = [[cut_page(page, heads) for page in pages] for heads in self._kv_heads]
        self._do([self._call("write_pages", block_ids, parts) for parts in of_ranks])

    def block_tables(self) -> list[np.ndarray]:
        """block_table as each rank's device has it."""
        return [table for (table,) in self._all_do("block_tables")]

    def close(self) -> None:
        """Send the followers home."""
        self._close()

    def _all_do(self, method: str, *arguments) -> list[Any]:
        return self._do([self._call(method, *arguments)] * self.num_ranks)

    def _call(self, method: str, *arguments) -> Call:
        return Call(self._number + 1, method, arguments, buckets_of(self._runner, method, arguments))

    def _do(self, calls: list[Call]) -> list[Any]:
        """The results of one call on all ranks, the leader's first."""
        self._number += 1
        try:
            self._channel.send(calls[1:])
            supervision.report_state(self._number, states.IN_THE_GRAPH)
            own = perform(self._runner, calls[0])
            supervision.report_state(self._number, "waiting for the other ranks")
            outcomes = [own, *self._channel.collect(self._number)]
            _check_alike([outcome.error for outcome in outcomes], calls[0])
        except GroupError as error:
            supervision.fail(str(error))
            raise
        supervision.report_state(self._number, states.IDLE)
        self._followers_compiles = max(outcome.num_compiles for outcome in outcomes)
        self._followers_compiles_after_warmup = max(outcome.compiles_after_warmup for outcome in outcomes)
        if own.error is not None:
            raise StepError(own.error)
        return [outcome.result for outcome in outcomes]


def _check_alike(errors: list[str | None], call: Call) -> None:
    """Raise GroupError if a call failed on some ranks only: their pages differ from now on."""
    failed = [rank for rank, error in enumerate(errors) if error is not None]
    if 0 < len(failed) < len(errors):
        others = "the others" if len(errors) - len(failed) > 1 else "the other one"
        raise GroupError(
            f"rank {failed[0]} of the group failed in call {call.number} ({call.method}) and {others} did not: "
            f"{errors[failed[0]]}"
        )
