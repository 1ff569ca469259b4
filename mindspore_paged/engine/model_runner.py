"""The compiled graphs: one for each token bucket, all over the same Parameters."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mindspore_paged.cache.kv_pool import KVPagePool
from mindspore_paged.engine.compiled_cell import CompiledCell
from mindspore_paged.engine.step_inputs import StepInputs, table_only
from mindspore_paged.models.llama import LlamaForCausalLM

COPIES_PER_CALL = 16
"""Pairs that the graph of copy_blocks takes; more are done in several calls."""


class ModelRunner:
    """Runs steps of `model` over `kv_pool`; `run` and `copy_blocks` write the pages and block_table.

    token_buckets: ascending token counts, one static graph each; a step is padded to the smallest that holds it.
    A graph of T tokens gives min(T, max_num_seqs) logits and writes up to `table_entries_per_step` table entries.
    """

    def __init__(self, model: LlamaForCausalLM, kv_pool: KVPagePool, token_buckets: Sequence[int]):
        self.model = model
        self.kv_pool = kv_pool
        self._step = CompiledCell(model)
        self._copy_pages = CompiledCell(kv_pool.copier)
        self.token_buckets = tuple(token_buckets)
        self.max_num_seqs, max_blocks_per_seq = kv_pool.block_table.shape
        # Room for one row that changes as a whole, as on admission, beside one new block for each other row.
        self.table_entries_per_step = self.max_num_seqs + max_blocks_per_seq
        self.weight_bytes = sum(weight.nbytes for weight in model.weights().values())
        self.kv_cache_bytes = kv_pool.num_bytes
        self._compiles_at_start = 0

    def warm_up(self, progress: Callable[[Sequence[int]], Iterable[int]]) -> None:
        """Compile every graph by a step without tokens; `progress` wraps the token buckets, as tqdm does."""
        nothing = table_only(np.zeros((1, 2), np.int32), np.zeros(1, np.int32))
        for bucket in progress(self.token_buckets):
            self._execute(bucket, nothing)
        self.copy_blocks([(-1, -1)])
        self._compiles_at_start = self.num_compiles

    @property
    def num_compiles(self) -> int:
        """Graphs compiled so far, that of copy_blocks included."""
        return self._step.num_compiles + self._copy_pages.num_compiles

    @property
    def compiles_after_warmup(self) -> int:
        """Graphs compiled since `warm_up`: 0, or a shape has slipped through."""
        return self.num_compiles - self._compiles_at_start

    def run(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step; returns logits float32 [N, vocab_size]. Raises StepError if the device refuses it."""
        *table_steps, step = inputs.split_table_changes(self.table_entries_per_step)
        for table_step in table_steps:
            self._execute(self.token_buckets[0], table_step)
        bucket = self.token_buckets[bisect_left(self.token_buckets, inputs.num_tokens)]
        return self._execute(bucket, step)[: len(inputs.logit_indices)]

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole pages (source, destination), in order, in every layer; (-1, -1) is none. Raises StepError."""
        for start in range(0, len(pairs), COPIES_PER_CALL):
            part = pairs[start : start + COPIES_PER_CALL]
            self._copy_pages(np.array(part + [(-1, -1)] * (COPIES_PER_CALL - len(part)), np.int32))

    def _execute(self, bucket: int, inputs: StepInputs) -> np.ndarray:
        padded = inputs.padded(bucket, min(bucket, self.max_num_seqs), self.table_entries_per_step)
        return self._step(*padded.arrays())
