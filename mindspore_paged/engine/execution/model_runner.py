"""The compiled graphs: one for each token bucket, all over the same Parameters."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import ml_dtypes
import numpy as np

from mindspore_paged.cache.block_pool import NULL_BLOCK
from mindspore_paged.engine.execution.compiled_cell import CompiledCell
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.step import Step
from mindspore_paged.step_inputs import StepInputs, table_only

COPIES_PER_CALL = 16
PAGES_PER_CALL = 8
"""Pairs, and pages, that the graphs of whole pages take; more are done in several calls, and one page in a graph of its
own: a decode step evicts one at a time, and the other seven would be moved for nothing."""
NO_PAGE = -1
"""In place of a block that write_blocks is to leave out."""


class ModelRunner:
    """Runs steps of `model` over `kv_pool`; `run` and `copy_blocks` write the pages and block_table.

    token_buckets: ascending token counts, one static graph each; a step is padded to the smallest that holds it.
    logits_per_seq: tokens of a sequence whose logits a step may want, 1 and the drafts behind it.
    A graph of T tokens gives min(T, max_num_seqs * logits_per_seq) logits and writes up to `table_entries_per_step`
    table entries.
    hidden_states: the Cell that does so without its head, where embeddings are wanted: another graph for each bucket.
    """

    num_ranks = 1

    def __init__(
        self,
        model: Step,
        kv_pool: KVPagePool,
        token_buckets: Sequence[int],
        logits_per_seq: int = 1,
        hidden_states: Callable | None = None,
    ):
        self.model = model
        self.kv_pool = kv_pool
        self._step = CompiledCell(model)
        self._takes_adapters = model.adapters is not None
        self._hidden_states = CompiledCell(hidden_states) if hidden_states else None
        self._copy_pages = CompiledCell(kv_pool.copier)
        self._read_pages = CompiledCell(kv_pool.reader)
        self._write_pages = CompiledCell(kv_pool.writer)
        self.token_buckets = tuple(token_buckets)
        self.max_num_seqs, max_blocks_per_seq = kv_pool.block_table.shape
        self.max_num_logits = self.max_num_seqs * logits_per_seq
        # Room for one row that changes as a whole, as on admission, beside one new block for each other row.
        self.table_entries_per_step = self.max_num_seqs + max_blocks_per_seq
        self.weight_bytes = sum(place.nbytes for place in model.weight_places().values())
        self.kv_cache_bytes = kv_pool.num_bytes
        self._page_dtype = np.dtype(getattr(ml_dtypes, kv_pool.dtype, kv_pool.dtype))
        self._compiles_at_start = 0

    def warm_up(self, progress: Callable[[Sequence[int]], Iterable[int]]) -> None:
        """Compile every graph by a step without tokens; `progress` wraps the token buckets, as tqdm does."""
        nothing = table_only(np.zeros((1, 2), np.int32), np.zeros(1, np.int32))
        for bucket in progress(self.token_buckets):
            self._execute(bucket, nothing)
            if self._hidden_states:
                self._execute(bucket, nothing, of_hidden=True)
        self.copy_blocks([(-1, -1)])
        for blocks in ([NULL_BLOCK], [NULL_BLOCK, NO_PAGE]):  # two of one block would be written by two cores at once
            self.write_pages(blocks, self.read_pages([NULL_BLOCK] * len(blocks)))
        self._compiles_at_start = self.num_compiles

    @property
    def num_compiles(self) -> int:
        """Graphs compiled so far, that of copy_blocks included."""
        cells = (self._step, self._hidden_states, self._copy_pages, self._read_pages, self._write_pages)
        return sum(cell.num_compiles for cell in cells if cell)

    @property
    def compiles_after_warmup(self) -> int:
        """Graphs compiled since `warm_up`: 0, or a shape has slipped through."""
        return self.num_compiles - self._compiles_at_start

    def run(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step; returns logits float32 [N, vocab_size]. Raises StepError if the device refuses it."""
        return self._run(inputs, of_hidden=False)

    def run_hidden(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step without its head; returns the tokens of logit_indices behind the last norm.

        float32 [N, hidden_size]; N may be as large as T. Raises StepError as `run` does.
        """
        return self._run(inputs, of_hidden=True)

    def buckets_of(self, inputs: StepInputs) -> tuple[int, ...]:
        """Token counts of the graphs that run for these inputs, in order: the last computes the tokens."""
        num_steps = -(-len(inputs.table_values) // self.table_entries_per_step)
        bucket = self.token_buckets[bisect_left(self.token_buckets, inputs.num_tokens)]
        return (*[self.token_buckets[0]] * (num_steps - 1), bucket)

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole pages (source, destination), in order, in every layer; (-1, -1) is none. Raises StepError."""
        for start in range(0, len(pairs), COPIES_PER_CALL):
            part = pairs[start : start + COPIES_PER_CALL]
            self._copy_pages(np.array(part + [(-1, -1)] * (COPIES_PER_CALL - len(part)), np.int32))

    def read_pages(self, block_ids: list[int]) -> list[np.ndarray]:
        """Whole pages, each [layers, 2, block_size, num_kv_heads, head_dim] of the pages' type; raises StepError."""
        pages: list[np.ndarray] = []
        for start in range(0, len(block_ids), PAGES_PER_CALL):
            part = block_ids[start : start + PAGES_PER_CALL]
            read = self._read_pages(_ids_of_call(part, NULL_BLOCK))
            pages += [np.ascontiguousarray(read[:, :, i], self._page_dtype) for i in range(len(part))]
        return pages

    def write_pages(self, block_ids: list[int], pages: list[np.ndarray]) -> None:
        """Put pages that `read_pages` gave into blocks; raises StepError."""
        for start in range(0, len(block_ids), PAGES_PER_CALL):
            part = pages[start : start + PAGES_PER_CALL]
            ids = _ids_of_call(block_ids[start : start + PAGES_PER_CALL], NO_PAGE)
            num_layers, two, *page_shape = part[0].shape
            stacked = np.empty((num_layers, two, len(ids), *page_shape), self._page_dtype)
            for place, page in enumerate(part):
                stacked[:, :, place] = page
            self._write_pages(ids, stacked)

    def block_tables(self) -> list[np.ndarray]:
        """block_table as the device has it, int32 [1][max_num_seqs, max_blocks_per_seq]."""
        return [self.kv_pool.block_table.asnumpy()]

    def close(self) -> None:
        """There is no other rank to let go of."""

    def _run(self, inputs: StepInputs, of_hidden: bool) -> np.ndarray:
        steps = inputs.split_table_changes(self.table_entries_per_step)
        for bucket, step in zip(self.buckets_of(inputs), steps, strict=True):
            result = self._execute(bucket, step, of_hidden)
        return result[: len(inputs.logit_indices)]

    def _execute(self, bucket: int, inputs: StepInputs, of_hidden: bool = False) -> np.ndarray:
        num_wanted = bucket if of_hidden else min(bucket, self.max_num_logits)
        padded = inputs.padded(bucket, num_wanted, self.table_entries_per_step)
        return (self._hidden_states if of_hidden else self._step)(*padded.arrays(self._takes_adapters))


def _ids_of_call(block_ids: list[int], nothing: int) -> np.ndarray:
    """int32 [1] or [PAGES_PER_CALL], what is left over filled with `nothing`."""
    size = 1 if len(block_ids) == 1 else PAGES_PER_CALL
    return np.array(block_ids + [nothing] * (size - len(block_ids)), np.int32)
