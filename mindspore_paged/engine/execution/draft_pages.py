"""Which slots of the pool's blocks hold a draft model's keys and values, beside the model's own."""

from collections.abc import Sequence

import numpy as np


class DraftPages:
    """For each block how many of its slots, from the first on, the draft model has computed; all but the first mutate.

    The draft model has pages of its own under the ids of the model's blocks, and the same block_table, so that all that
    is shared, copied, moved and freed holds for both. It may lag behind the model, though: it has not computed what
    came from a tier or from another engine, nor what was computed while nobody guessed. It computes that when it is
    asked next.

    blocks: those of a row, from the row's first on; counts of tokens begin there, too.
    """

    def __init__(self, num_blocks: int, block_size: int):
        self.block_size = block_size
        self._filled = np.zeros(num_blocks, np.int32)

    def num_computed(self, blocks: Sequence[int]) -> int:
        """Tokens of a row that the draft model has computed, up to the first that it has not."""
        filled = self._filled[blocks]
        gaps = np.flatnonzero(filled < self.block_size)
        if not len(gaps):
            return len(blocks) * self.block_size
        return int(gaps[0]) * self.block_size + int(filled[gaps[0]])

    def limit(self, blocks: Sequence[int], num_tokens: int) -> None:
        """The row's tokens from `num_tokens` on are about to be others: what was computed of them does not count."""
        first = num_tokens // self.block_size
        later = blocks[first:]
        self._filled[later] = np.minimum(self._filled[later], self._covered(len(later), num_tokens % self.block_size))

    def fill(self, blocks: Sequence[int], num_tokens: int) -> None:
        """The draft model has computed the row's first `num_tokens` tokens."""
        self._filled[blocks] = np.maximum(self._filled[blocks], self._covered(len(blocks), num_tokens))

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Blocks were copied, one after the other: (source, destination)."""
        for source, destination in pairs:
            self._filled[destination] = self._filled[source]

    def forget(self, blocks: Sequence[int]) -> None:
        """Something else was written into these blocks, of which the draft model knows nothing."""
        self._filled[blocks] = 0

    def _covered(self, num_blocks: int, num_tokens: int) -> np.ndarray:
        """Slots of each of some blocks that `num_tokens` tokens take."""
        return np.clip(num_tokens - self.block_size * np.arange(num_blocks), 0, self.block_size).astype(np.int32)
