"""Pages of whole sequences: rows of block_table over blocks of the pool, with sharing and copy-on-write."""

from collections import Counter
from collections.abc import Sequence

from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.errors import IntegrityError, OutOfBlocksError


class CacheManager:
    """Gives rows their blocks; `admit`, `grow`, `fork`, `free` and `register` mutate, and each is all or nothing.

    A row covers its tokens with whole blocks::

        tokens      0 ........ 15 | 16 ....... 31 | 32 .. 36
        row         block 7       | block 3       | block 12
        shared?     with row 2    | with row 2    | own: only an own block is ever written
    """

    def __init__(self, pool: BlockPool, table: BlockTable, block_size: int, enable_prefix_caching: bool = True):
        self.pool = pool
        self.table = table
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._copies: list[tuple[int, int]] = []

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that cover `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    @property
    def num_reserved_tokens(self) -> int:
        """Slots in the blocks of all rows, a shared block counted for each row."""
        return self.table.num_held_blocks * self.block_size

    def admit(self, hashes: Sequence[bytes], num_tokens: int) -> tuple[int, int] | None:
        """Start a row for a sequence of `num_tokens` known tokens whose full blocks are named by `hashes`.

        Returns the row and how many leading tokens the prefix cache already holds, or None if no row is free or the
        pool could not hold all of its tokens now. The last token is never taken from the cache: its logits are needed.
        """
        if self.table.num_free_rows == 0:
            return None
        cached = self.pool.match_prefix(hashes[: (num_tokens - 1) // self.block_size])
        revived = sum(self.pool.references(block_id) == 0 for block_id in cached)
        if self.blocks_for(num_tokens) - len(cached) > self.pool.num_available - revived:
            return None
        self.pool.retain(cached)
        row = self.table.acquire_row()
        self.table.append(row, cached)
        return row, len(cached) * self.block_size

    def grow(self, row: int, num_computed_tokens: int, num_tokens: int) -> bool:
        """Make the row ready to write tokens num_computed_tokens .. num_tokens - 1; False, and no change, if it cannot.

        New blocks are appended; a shared block that would be written is replaced by a copy (see `take_copies`).
        """
        first_written = num_computed_tokens // self.block_size
        held = self.table.blocks(row)
        shared = [i for i in range(first_written, len(held)) if self.pool.references(held[i]) > 1]
        missing = self.blocks_for(num_tokens) - len(held)
        try:
            fresh = self.pool.allocate(len(shared) + missing)
        except OutOfBlocksError:
            return False
        for index, block_id in zip(shared, fresh, strict=False):  # the rest of `fresh` is appended
            self._copies.append((held[index], block_id))
            self.table.replace(row, index, block_id)
            self.pool.release([held[index]])
        self.table.append(row, fresh[len(shared) :])
        return True

    def fork(self, row: int) -> int | None:
        """Start another row with the same blocks, shared; None if every row is in use."""
        if self.table.num_free_rows == 0:
            return None
        blocks = self.table.blocks(row)
        self.pool.retain(blocks)
        child = self.table.acquire_row()
        self.table.append(child, blocks)
        return child

    def free(self, row: int) -> None:
        """Give the row and its references back; blocks in the prefix index stay there until they are evicted."""
        blocks = self.table.release_row(row)
        self.pool.release(blocks)
        # A copy into a block that is no longer held must not land in its next owner's page.
        self._copies = [pair for pair in self._copies if self.pool.references(pair[1])]

    def register(self, row: int, hashes: Sequence[bytes], first_block: int, num_full_blocks: int) -> None:
        """Name the row's blocks first_block .. num_full_blocks - 1, which steps have written, in the prefix index."""
        if not self.enable_prefix_caching:
            return
        for index in range(first_block, num_full_blocks):
            self.pool.register(int(self.table.block_tables[row, index]), hashes[index])

    def take_copies(self) -> list[tuple[int, int]]:
        """Block copies (source, destination) that the device must do, in this order, before the next step writes."""
        copies, self._copies = self._copies, []
        return copies

    def check_integrity(self) -> None:
        """Raise IntegrityError unless references equal the rows that hold each block, and pool and table are sound."""
        self.pool.check_integrity()
        self.table.check_integrity()
        held = Counter(block for row in range(len(self.table.block_tables)) for block in self.table.blocks(row))
        for block_id in range(1, self.pool.num_blocks):
            if self.pool.references(block_id) != held[block_id]:
                raise IntegrityError(
                    f"block {block_id} has {self.pool.references(block_id)} references, {held[block_id]} rows hold it"
                )
