"""What the engine needs of a device."""

from typing import Protocol

import numpy as np

from mindspore_paged.step_inputs import StepInputs


class Runner(Protocol):
    """Computes steps and moves pages; ModelRunner is the real one, tests have simpler ones.

    num_ranks: processes that share the model. weight_bytes, kv_cache_bytes: memory that the weights and the pages take
    in each of them. num_compiles, compiles_after_warmup: graphs compiled in all, and since the engine was ready, on the
    rank with the most.
    """

    num_ranks: int

    weight_bytes: int
    kv_cache_bytes: int
    num_compiles: int
    compiles_after_warmup: int

    def run(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step and return its logits float32 [N, vocab_size]; raises StepError."""

    def run_hidden(self, inputs: StepInputs) -> np.ndarray:
        """Compute one step without its head: the wanted tokens behind the last norm, float32 [N, hidden_size]."""

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy pages (source, destination) in order; raises StepError."""

    def read_pages(self, block_ids: list[int]) -> list[np.ndarray]:
        """The pages of all layers, one array for each block; raises StepError."""

    def write_pages(self, block_ids: list[int], pages: list[np.ndarray]) -> None:
        """Put pages that `read_pages` gave into blocks; raises StepError."""

    def block_tables(self) -> list[np.ndarray]:
        """block_table int32 [max_num_seqs, max_blocks_per_seq] as the device of each rank has it."""

    def close(self) -> None:
        """Let go of the other ranks; nothing may run afterwards."""
