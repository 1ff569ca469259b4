"""Host side of block_table: one row of block ids for each running sequence, and what the device does not know yet."""

from collections.abc import Sequence

import numpy as np

from mindspore_paged.cache.block_pool import NULL_BLOCK
from mindspore_paged.errors import IntegrityError, InvalidBlockError

NO_BLOCK = -1


class BlockTable:
    """Rows of block ids, padded with -1; `acquire_row`, `release_row`, `append`, `truncate`, `replace` mutate.

    block_tables: int32 [max_num_seqs, max_blocks_per_seq], the host's truth.
    The device holds a copy in which the null block stands for -1; `take_changes` yields what differs there.
    """

    def __init__(self, max_num_seqs: int, max_blocks_per_seq: int):
        self.block_tables = np.full((max_num_seqs, max_blocks_per_seq), NO_BLOCK, np.int32)
        self._lengths = [0] * max_num_seqs
        self._free_rows = dict.fromkeys(range(max_num_seqs - 1, -1, -1))  # the one freed last is taken first
        self._on_device = np.full_like(self.block_tables, NULL_BLOCK)
        self._changed_rows: set[int] = set()

    @property
    def max_blocks_per_seq(self) -> int:
        """Blocks that one row has room for."""
        return self.block_tables.shape[1]

    @property
    def num_free_rows(self) -> int:
        """Sequences that can still start."""
        return len(self._free_rows)

    @property
    def num_held_blocks(self) -> int:
        """Entries of all rows that hold a block."""
        return sum(self._lengths)

    def acquire_row(self) -> int:
        """Take an empty row; raises InvalidBlockError when every row is in use."""
        if not self._free_rows:
            raise InvalidBlockError(f"all {len(self.block_tables)} rows of block_table are in use")
        return self._free_rows.popitem()[0]

    def release_row(self, row: int) -> list[int]:
        """Empty the row, give it back, and return the blocks that it held."""
        blocks = self.blocks(row)
        if row in self._free_rows:
            raise InvalidBlockError(f"row {row} is released twice")
        self.block_tables[row, : len(blocks)] = NO_BLOCK
        self._lengths[row] = 0
        self._changed_rows.add(row)
        self._free_rows[row] = None
        return blocks

    def num_blocks(self, row: int) -> int:
        """How many blocks the row holds."""
        return self._lengths[row]

    def blocks(self, row: int, start: int = 0) -> list[int]:
        """The row's blocks, in the order of the tokens that they hold, from place `start` on."""
        return self.block_tables[row, start : self._lengths[row]].tolist()

    def rows_in_use(self) -> list[int]:
        """The rows that were acquired and not released."""
        return [row for row in range(len(self.block_tables)) if row not in self._free_rows]

    def held_blocks(self) -> np.ndarray:
        """Every entry that holds a block, int32 [E]; a shared block stands there once for each row."""
        return self.block_tables[self.block_tables != NO_BLOCK]

    def rows_with(self, block_ids: Sequence[int]) -> list[int]:
        """The rows that hold any of the blocks."""
        return np.flatnonzero(np.isin(self.block_tables, block_ids).any(axis=1)).tolist()

    def append(self, row: int, block_ids: list[int]) -> None:
        """Lengthen the row; raises InvalidBlockError if it would outgrow the table."""
        start, end = self._lengths[row], self._lengths[row] + len(block_ids)
        if end > self.max_blocks_per_seq:
            raise InvalidBlockError(f"row {row} would hold {end} blocks; the table has {self.max_blocks_per_seq} a row")
        self.block_tables[row, start:end] = block_ids
        self._lengths[row] = end
        self._changed_rows.add(row)

    def truncate(self, row: int, num_blocks: int) -> list[int]:
        """Shorten the row to `num_blocks` blocks, if it has more, and return those behind them."""
        blocks = self.blocks(row, num_blocks)
        if blocks:
            self.block_tables[row, num_blocks : self._lengths[row]] = NO_BLOCK
            self._lengths[row] = num_blocks
            self._changed_rows.add(row)
        return blocks

    def replace(self, row: int, index: int, block_id: int) -> None:
        """Put another block at a place that the row already fills."""
        if not 0 <= index < self._lengths[row]:
            raise InvalidBlockError(f"row {row} has no block {index}; it holds {self._lengths[row]}")
        self.block_tables[row, index] = block_id
        self._changed_rows.add(row)

    def relocate(self, moves: dict[int, int]) -> None:
        """Put, wherever a row holds a block that is a key of `moves`, the block that it maps to."""
        if not moves:
            return
        self._changed_rows.update(self.rows_with(list(moves)))
        moved = np.arange(max(self.block_tables.max(), *moves) + 1, dtype=np.int32)
        moved[list(moves)] = list(moves.values())
        held = self.block_tables != NO_BLOCK
        self.block_tables[held] = moved[self.block_tables[held]]

    def take_changes(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries that the device must write to equal the host: indices int32 [C, 2], block ids int32 [C].

        Where nothing changed, entry (0, 0) is stated once more: C is at least 1, and a graph that takes a fixed number
        of entries can repeat the first. The caller promises to write them; `forget_device` takes the promise back.
        """
        nothing = np.zeros((1, 2), np.int32), self._on_device[:1, 0].copy()
        if not self._changed_rows:  # most decode steps; the search below takes a tenth of a millisecond
            return nothing
        rows = sorted(self._changed_rows)
        self._changed_rows.clear()
        wanted = np.where(self.block_tables[rows] == NO_BLOCK, NULL_BLOCK, self.block_tables[rows])
        places, columns = np.nonzero(wanted != self._on_device[rows])
        if not len(places):
            return nothing
        self._on_device[rows] = wanted
        indices = np.stack([np.asarray(rows, np.int32)[places], columns.astype(np.int32)], axis=1)
        return indices, wanted[places, columns]

    def forget_device(self) -> None:
        """Assume nothing of the device's copy after a step that failed: send every entry again."""
        self._on_device.fill(NO_BLOCK)
        self._changed_rows.update(range(len(self.block_tables)))

    def device_copy(self) -> np.ndarray:
        """What the device must hold now: int32, shaped like block_tables, with the null block for -1."""
        return np.where(self.block_tables == NO_BLOCK, NULL_BLOCK, self.block_tables)

    def check_device(self, device: np.ndarray, rank: int) -> None:
        """Raise IntegrityError unless a rank's device holds what it was told to; after a failed step it may differ."""
        wrong = np.argwhere((self._on_device != NO_BLOCK) & (device != self._on_device))
        if len(wrong):
            row, column = wrong[0]
            raise IntegrityError(
                f"block_table on the device of rank {rank} has block {device[row, column]} at row {row}, column "
                f"{column}; the host wrote {self._on_device[row, column]} there"
            )

    def check_integrity(self) -> None:
        """Raise IntegrityError unless rows are filled from the left and free rows are empty."""
        filled = np.arange(self.max_blocks_per_seq) < np.array(self._lengths)[:, None]
        if not np.array_equal(filled, self.block_tables != NO_BLOCK):
            raise IntegrityError("a row of block_table has a hole, or blocks past its length")
        if any(self._lengths[row] for row in self._free_rows):
            raise IntegrityError("a free row of block_table holds blocks")
