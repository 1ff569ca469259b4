"""Pages of whole sequences: rows of block_table over blocks of the pool, shared, copied, moved, swapped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.compaction import plan_moves
from mindspore_paged.cache.elasticity import ElasticCapacity
from mindspore_paged.cache.pool_size import most_blocks
from mindspore_paged.errors import IntegrityError


class PageTier(Protocol):
    """Where the contents of evicted blocks may be found again by their names; HostTier is the real one."""

    def match(self, hashes: Sequence[bytes]) -> int:
        """How many of `hashes`, from the first on, it seems to hold."""

    def get(self, block_hash: bytes) -> np.ndarray | None:
        """The page, checked, or None if it is gone or damaged."""


@dataclass
class Transfers:
    """What the device must do with whole pages before the next step writes, in this order.

    saves: (block, name) whose content is about to be overwritten, and may be saved below the pool.
    loads: (block, page) to write. copies: (source, destination), one after the other.
    """

    saves: list[tuple[int, bytes]] = field(default_factory=list)
    loads: list[tuple[int, np.ndarray]] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)


class CacheManager:
    """Gives rows their blocks; each mutating call is all or nothing.

    A row covers its tokens with whole blocks::

        tokens      0 ........ 15 | 16 ....... 31 | 32 .. 36
        row         block 7       | block 3       | block 12
        shared?     with row 2    | with row 2    | own: only an own block is ever written

    With a window, what stands wholly before the window of the next token is given back: block_table has the null block
    there, and a row holds no more than the window and what one step writes.

    `admit`, `grow`, `trim`, `give_back`, `fork`, `free`, `register`, `compact`, `forget_blocks`, `adjust_capacity` and
    `take_transfers` mutate.
    host_tier: where the content of evicted blocks may be found again. capacity: how much of the pool may be used.
    window: tokens that a token sees in the layer where it sees most, itself included; 0 = all.
    """

    def __init__(
        self,
        pool: BlockPool,
        table: BlockTable,
        block_size: int,
        enable_prefix_caching: bool = True,
        host_tier: PageTier | None = None,
        capacity: ElasticCapacity | None = None,
        window: int = 0,
    ):
        self.pool = pool
        self.table = table
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.host_tier = host_tier
        self.capacity = capacity
        self.window = window
        self.missed_run = 0  # length of the longest run that was asked for in vain since the last compaction
        self._writable: dict[int, int] = {}  # row -> end of the tokens whose blocks it has for itself, while it has
        self._reserved: dict[int, int] = {}  # row -> end of the blocks that it got ahead of need, as one run
        self._loads: list[tuple[int, np.ndarray]] = []
        self._copies: list[tuple[int, int]] = []

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that cover `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def most_blocks(self, num_tokens: int, chunk_tokens: int | None = None) -> int:
        """Blocks that a row holds at most while it grows to `num_tokens` tokens, chunk_tokens at a time (None: all)."""
        return most_blocks(num_tokens, self.block_size, self.window, chunk_tokens)

    @property
    def num_reserved_tokens(self) -> int:
        """Slots of all rows up to their ends, also in blocks given back; a shared block counts for each row."""
        return self.table.num_places * self.block_size

    def admit(
        self,
        hashes: Sequence[bytes],
        num_tokens: int,
        contiguous_tokens: int = 0,
        chunk_tokens: int | None = None,
    ) -> tuple[int, int] | None:
        """Start a row for a sequence of `num_tokens` known tokens whose full blocks are named by `hashes`.

        Returns the row and how many leading tokens the pool, or the tier below it, holds already; or None if no row is
        free or the pool could not hold now what the row needs until it has all of its tokens, if `grow` is asked for at
        most `chunk_tokens` at a time. The last token is never taken from the cache: its logits are needed.
        With `contiguous_tokens`, blocks for so many tokens are taken at once, as one run if there is one.
        """
        if self.table.num_free_rows == 0:
            return None
        hashes = hashes[: (num_tokens - 1) // self.block_size]
        cached = self.pool.match_prefix(hashes)
        num_cached = len(cached)
        first = self._first_needed(num_cached * self.block_size)
        self.pool.retain(cached)
        self.pool.release(cached[:first])  # what the window has left behind was used, but makes room if need be
        cached = cached[first:]

        def blocks_wanted(num_tokens: int) -> int:
            return min(self.blocks_for(num_tokens) - num_cached, self.most_blocks(num_tokens, chunk_tokens))

        missing = blocks_wanted(num_tokens)
        if not self._make_room(missing):
            self.pool.release(cached)
            return None
        row = self.table.acquire_row(first)
        self.table.append(row, cached)
        if contiguous_tokens:
            self._reserve_run(row, max(missing, blocks_wanted(contiguous_tokens)))
        num_loaded = self._load(row, num_cached, hashes[num_cached:])
        return row, (num_cached + num_loaded) * self.block_size

    def grow(self, row: int, num_computed_tokens: int, num_tokens: int) -> bool:
        """Make the row ready to write tokens num_computed_tokens .. num_tokens - 1; False, and no change, if it cannot.

        New blocks are appended; a shared block that would be written is replaced by a copy.
        """
        if num_tokens <= self._writable.get(row, 0):
            return True  # most decodes: the next token goes into a block that was made ready for an earlier one
        first_written, end = num_computed_tokens // self.block_size, self.blocks_for(num_tokens)
        written = self.table.blocks(row, first_written)[: end - first_written]
        shared = self.pool.shared_among(written)
        missing = end - first_written - len(written)
        if not self._make_room(len(shared) + missing):
            return False
        for source, copy in zip(shared, self.pool.allocate(len(shared)), strict=True):
            self._copies.append((source, copy))
            self.table.replace(row, first_written + written.index(source), copy)
            self.pool.release([source])
        if missing:
            self.table.append(row, self._next_blocks(row, missing))
        self._writable[row] = end * self.block_size
        return True

    def num_tokens_without_eviction(self, row: int) -> int:
        """Tokens that the row could hold if it grew into all blocks that are free, and no others."""
        return (self.table.end(row) + self.pool.num_free) * self.block_size

    def trim(self, row: int, num_tokens: int) -> None:
        """Give back the blocks behind the row's first `num_tokens` tokens, which `grow` made ready in vain."""
        end = max(self.blocks_for(num_tokens), self._reserved.get(row, 0))
        self.pool.release(self.table.truncate(row, end))
        if row in self._writable:
            self._writable[row] = min(self._writable[row], end * self.block_size)

    def give_back(self, row: int, num_computed_tokens: int) -> None:
        """Give back the blocks that no token from num_computed_tokens on sees: those that have a name stay cached."""
        if not self.window:
            return
        first = self._first_needed(num_computed_tokens)
        if first > self.table.first(row):
            self.pool.release(self.table.drop_front(row, first))
            self._drop_transfers()

    def fork(self, row: int, num_tokens: int) -> int | None:
        """Start another row that shares the blocks of the first `num_tokens` tokens; None if every row is in use."""
        if self.table.num_free_rows == 0:
            return None
        first = self.table.first(row)
        blocks = self.table.blocks(row)[: self.blocks_for(num_tokens) - first]
        self.pool.retain(blocks)
        child = self.table.acquire_row(first)
        self.table.append(child, blocks)
        self._writable.pop(row, None)  # the last block is no longer its own
        return child

    def free(self, row: int) -> None:
        """Give the row and its references back; blocks in the prefix index stay there until they are evicted."""
        self._writable.pop(row, None)
        self._reserved.pop(row, None)
        self.pool.release(self.table.release_row(row))
        self._drop_transfers()

    def register(self, row: int, hashes: Sequence[bytes], first_block: int, num_full_blocks: int) -> None:
        """Name the row's blocks first_block .. num_full_blocks - 1, which steps have written, in the prefix index."""
        if not self.enable_prefix_caching:
            return
        for index in range(first_block, num_full_blocks):
            self.pool.register(int(self.table.block_tables[row, index]), hashes[index])

    def compact(self, max_moves: int) -> list[tuple[int, int]]:
        """Move live blocks together, at most `max_moves`, in pool, table and index; returns (source, destination).

        The caller copies the pages, in this order, before anything else is done with the pool; it may be called only
        when no transfer is pending.
        """
        held = set(self.table.held_blocks().tolist()) | set(self.pool.pinned_blocks()) | set(self.pool.cached_blocks())
        moves = plan_moves(self.pool.free_runs, sorted(held, reverse=True), max_moves)
        self.pool.move(moves)
        self.table.relocate(dict(moves))
        self.missed_run = 0
        return moves

    def forget_blocks(self, block_ids: Sequence[int]) -> list[int]:
        """The content of these blocks is lost: take their names away, and return the rows that hold one of them."""
        for block_id in block_ids:
            self.pool.forget(block_id)
        return self.table.rows_with(block_ids)

    def adjust_capacity(self) -> int:
        """Follow the load: shrink or grow the usable part of the pool; returns the blocks usable from now on."""
        if self.capacity is not None:
            change = self.capacity.advise(self.pool.num_used, self.pool.num_usable) - self.pool.num_usable
            if change > 0:
                self.pool.restore(change)
            else:
                self.pool.withhold(-change)
        return self.pool.num_usable

    def take_transfers(self) -> Transfers:
        """What the device must do with whole pages before the next step, handed over once."""
        transfers = Transfers(self.pool.take_evictions(), self._loads, self._copies)
        self._loads, self._copies = [], []
        return transfers

    def check_integrity(self, rows: dict[int, tuple[int, str]]) -> None:
        """Raise IntegrityError unless pool and table are sound and agree, and every row covers its tokens exactly.

        rows: for each row in use, its tokens in the cache and whose it is, to name who leaks.
        """
        self.pool.check_integrity()
        self.table.check_integrity()
        held = Counter(self.table.held_blocks().tolist())
        pins = Counter(self.pool.pinned_blocks())
        for block_id in range(1, self.pool.num_blocks):
            if self.pool.references(block_id) != held[block_id] + pins[block_id]:
                raise IntegrityError(
                    f"block {block_id} has {self.pool.references(block_id)} references, "
                    f"{held[block_id]} rows and {pins[block_id]} pins hold it"
                )
        for row, (num_tokens, owner) in rows.items():
            first = self._first_needed(num_tokens)
            if self.table.first(row) != first:
                raise IntegrityError(
                    f"{owner} begins at block {self.table.first(row)} for {num_tokens} tokens instead of {first}"
                )
            wanted = max(self.blocks_for(num_tokens), self._reserved.get(row, 0), first) - first
            if self.table.num_blocks(row) != wanted:
                raise IntegrityError(
                    f"{owner} holds {self.table.num_blocks(row)} blocks for {num_tokens} tokens instead of {wanted}"
                )
            if row in self._writable and self.pool.shared_among(self.table.blocks(row, num_tokens // self.block_size)):
                raise IntegrityError(f"{owner} would write into a block that it shares")

    def _first_needed(self, num_computed_tokens: int) -> int:
        """The first place of a row that its next token, or one behind it, sees."""
        if not self.window:
            return 0
        return max(0, num_computed_tokens + 1 - self.window) // self.block_size

    def _drop_transfers(self) -> None:
        """What was to be written into a block that nobody holds any more must not land in its next owner's page."""
        self._loads = [load for load in self._loads if self.pool.references(load[0])]
        self._copies = [pair for pair in self._copies if self.pool.references(pair[1])]

    def _make_room(self, count: int) -> bool:
        """Whether `count` blocks can be had, withheld ones put back into use for it."""
        lacking = count - self.pool.num_available
        if lacking > self.pool.num_withheld:
            return False
        self.pool.restore(max(0, lacking))
        return True

    def _reserve_run(self, row: int, count: int) -> None:
        run = self.pool.allocate_run(count)
        if run is None:
            self.missed_run = max(self.missed_run, count)
            return
        self.table.append(row, run)
        self._reserved[row] = self.table.end(row)

    def _next_blocks(self, row: int, count: int) -> list[int]:
        """More blocks for a row; one that has a run is continued behind it while the neighbours are free."""
        blocks: list[int] = []
        if row in self._reserved and self.table.num_blocks(row):
            last = self.table.blocks(row)[-1]
            while len(blocks) < count and (neighbour := self.pool.extend_run(last)) is not None:
                blocks.append(neighbour)
                last = neighbour
        return blocks + self.pool.allocate(count - len(blocks))

    def _load(self, row: int, first_block: int, hashes: Sequence[bytes]) -> int:
        """Let blocks of the row be filled from the tier below; returns how many of `hashes`, from the first on."""
        if self.host_tier is None:
            return 0
        pages = []
        for block_hash in hashes[: self.host_tier.match(hashes)]:
            page = self.host_tier.get(block_hash)
            if page is None:  # gone or damaged meanwhile: computed again, like all behind it
                break
            pages.append(page)
        end = first_block + len(pages)
        first = self._first_needed(end * self.block_size)
        self.pool.release(self.table.drop_front(row, first))
        missing = end - self.table.end(row)
        if missing > 0:
            self.table.append(row, self.pool.allocate(missing))
        seen = max(first, first_block)
        self._loads += zip(self.table.blocks(row, seen)[: end - seen], pages[seen - first_block :], strict=True)
        return len(pages)
