"""Host side of block_table: one row of block ids for each running sequence, and what the device does not know yet."""

from collections.abc import Sequence

import numpy as np

from mindspore_paged.cache.block_pool import NULL_BLOCK
from mindspore_paged.errors import IntegrityError, InvalidBlockError

NO_BLOCK = -1


class BlockTable:
    """Rows of block ids, padded with -1; `acquire_row`, `release_row`, `append`, `truncate`, `drop_front`, `replace`
    and `relocate` mutate.

    A row holds the blocks of places first(row) .. end(row) - 1; what stood before them was given back.
    block_tables: int32 [max_num_seqs, max_blocks_per_seq], the host's truth.
    The device holds a copy in which the null block stands for -1; `take_changes` yields what differs there.
    """

    def __init__(self, max_num_seqs: int, max_blocks_per_seq: int):
        self.block_tables = np.full((max_num_seqs, max_blocks_per_seq), NO_BLOCK, np.int32)
        self._firsts = [0] * max_num_seqs
        self._ends = [0] * max_num_seqs
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
    def num_places(self) -> int:
        """Places of all rows up to their ends, whether their blocks are held or were given back."""
        return sum(self._ends)

    def acquire_row(self, first: int = 0) -> int:
        """Take an empty row, to begin at place `first`; raises InvalidBlockError when every row is in use."""
        if not self._free_rows:
            raise InvalidBlockError(f"all {len(self.block_tables)} rows of block_table are in use")
        row = self._free_rows.popitem()[0]
        self._firsts[row] = self._ends[row] = first
        return row

    def release_row(self, row: int) -> list[int]:
        """Empty the row, give it back, and return the blocks that it held."""
        blocks = self.blocks(row)
        if row in self._free_rows:
            raise InvalidBlockError(f"row {row} is released twice")
        self.block_tables[row, : self._ends[row]] = NO_BLOCK
        self._firsts[row] = self._ends[row] = 0
        self._changed_rows.add(row)
        self._free_rows[row] = None
        return blocks

    def num_blocks(self, row: int) -> int:
        """How many blocks the row holds."""
        return self._ends[row] - self._firsts[row]

    def first(self, row: int) -> int:
        """The place of the row's first block."""
        return self._firsts[row]

    def end(self, row: int) -> int:
        """The place behind the row's last block."""
        return self._ends[row]

    def blocks(self, row: int, start: int = 0) -> list[int]:
        """The row's blocks, in the order of the tokens that they hold, from place `start` on."""
        return self.block_tables[row, max(start, self._firsts[row]) : self._ends[row]].tolist()

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
        start, end = self._ends[row], self._ends[row] + len(block_ids)
        if end > self.max_blocks_per_seq:
            raise InvalidBlockError(f"row {row} would hold {end} blocks; the table has {self.max_blocks_per_seq} a row")
        self.block_tables[row, start:end] = block_ids
        self._ends[row] = end
        self._changed_rows.add(row)

    def truncate(self, row: int, end: int) -> list[int]:
        """Let the row end at place `end`, if it goes on there, and return the blocks behind it."""
        blocks = self.blocks(row, end)
        if blocks:
            self.block_tables[row, end : self._ends[row]] = NO_BLOCK
            self._ends[row] = end
            self._changed_rows.add(row)
        return blocks

    def drop_front(self, row: int, first: int) -> list[int]:
        """Let the row begin at place `first`, if it begins before it, and return the blocks that stood before."""
        blocks = self.block_tables[row, self._firsts[row] : min(first, self._ends[row])].tolist()
        if first > self._firsts[row]:
            self.block_tables[row, self._firsts[row] : first] = NO_BLOCK
            self._firsts[row] = first
            self._ends[row] = max(first, self._ends[row])
            self._changed_rows.add(row)
        return blocks

    def replace(self, row: int, index: int, block_id: int) -> None:
        """Put another block at a place that the row already fills."""
        if not self._firsts[row] <= index < self._ends[row]:
            held = f"{self._firsts[row]} .. {self._ends[row] - 1}"
            raise InvalidBlockError(f"row {row} has no block {index}; it holds {held}")
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
        """Raise IntegrityError unless rows are filled from their first place to their end and free rows are empty."""
        places = np.arange(self.max_blocks_per_seq)
        filled = (np.array(self._firsts)[:, None] <= places) & (places < np.array(self._ends)[:, None])
        if not np.array_equal(filled, self.block_tables != NO_BLOCK):
            raise IntegrityError("a row of block_table has a hole, or blocks outside its places")
        if any(self._ends[row] for row in self._free_rows):
            raise IntegrityError("a free row of block_table holds blocks")
