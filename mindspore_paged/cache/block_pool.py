"""The ids of the KV pages: who holds which, which are free, and which still hold a reusable prefix."""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import chain

import numpy as np

from mindspore_paged.cache.free_runs import FreeRuns
from mindspore_paged.errors import IntegrityError, InvalidBlockError, OutOfBlocksError

NULL_BLOCK = 0
"""Never handed out: entries of block_table that hold no block point to it, so that every entry is a valid id."""

_ROOT_HASH = b""
_NO_TOKEN = (-1).to_bytes(4, "little", signed=True)


def hash_block(parent_hash: bytes, token_ids: Sequence[int]) -> bytes:
    """Name of a full block: a digest of its tokens and, through `parent_hash`, of all tokens before it.

    SHA-256, because a hit is taken on the digest alone: a collision would answer one user with another's prefix.
    """
    return sha256(parent_hash + np.asarray(token_ids, np.int32).tobytes()).digest()


def salted_root(cache_salt: str | None, adapter: bytes | None = None) -> bytes:
    """What stands in place of a parent before a first block: names under one salt are never those under another.

    No text is like the tokens of a block, for it stands behind what is no token. adapter: the digest of what tokens are
    computed with beside the model; it stands behind two of these, which begin no text.
    """
    root = _ROOT_HASH if cache_salt is None else sha256(_NO_TOKEN + cache_salt.encode()).digest()
    return root if adapter is None else sha256(_NO_TOKEN + _NO_TOKEN + adapter + root).digest()


def extend_block_hashes(
    hashes: list[bytes],
    token_ids: Sequence[int],
    block_size: int,
    cache_salt: str | None = None,
    adapter: bytes | None = None,
) -> None:
    """Append to `hashes` the names of the full blocks of `token_ids` that it does not hold yet; see `salted_root`."""
    for index in range(len(hashes), len(token_ids) // block_size):
        parent = hashes[-1] if hashes else salted_root(cache_salt, adapter)
        hashes.append(hash_block(parent, token_ids[index * block_size : (index + 1) * block_size]))


class BlockPool:
    """Counts references to block ids and keeps the prefix index; what the pages hold it never sees.

    Every block but the null block is in one of four states::

        free      nobody holds it, its content is worthless     allocate() takes these first
        used      one reference for each row, and each pin      never evicted
        cached    nobody holds it, the prefix index names it    allocate() evicts the least recently used
        withheld  out of use while the load is low              neither handed out nor counted as capacity

    `allocate`, `allocate_run`, `extend_run`, `retain`, `release`, `pin`, `unpin`, `register`, `forget`, `evict`,
    `move`, `withhold`, `restore` and `take_evictions` mutate; everything else only looks.
    """

    def __init__(self, num_blocks: int):
        """Start with blocks 1 .. num_blocks - 1 free; raises InvalidBlockError below two blocks."""
        if num_blocks < 2:
            raise InvalidBlockError(f"a pool of {num_blocks} blocks has none to hand out; it needs at least 2")
        self.num_blocks = num_blocks
        self.free_runs = FreeRuns(NULL_BLOCK + 1, num_blocks)
        self._references = array("i", bytes(4 * num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._withheld: list[int] = []  # the one withheld last is restored first
        self._pins: Counter[int] = Counter()
        self._block_of_hash: dict[bytes, int] = {}
        self._hash_of_block: dict[int, bytes] = {}
        self._evictions: list[tuple[int, bytes]] = []

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds and no prefix names."""
        return len(self.free_runs)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds but a later prompt may hit."""
        return len(self._cached)

    @property
    def num_withheld(self) -> int:
        """Blocks out of use."""
        return len(self._withheld)

    @property
    def num_available(self) -> int:
        """Blocks that allocate() can give: the free and the cached ones."""
        return self.num_free + self.num_cached

    @property
    def num_usable(self) -> int:
        """Blocks in use or available: the pool without the null block and what is withheld."""
        return self.num_blocks - 1 - self.num_withheld

    @property
    def num_used(self) -> int:
        """Blocks that at least one row or pin holds."""
        return self.num_usable - self.num_available

    def references(self, block_id: int) -> int:
        """How many rows and pins hold the block."""
        self._check_id(block_id)
        return self._references[block_id]

    def shared_among(self, block_ids: Iterable[int]) -> list[int]:
        """Those of a row's blocks that another row, or a pin, holds too."""
        return [block_id for block_id in block_ids if self._references[block_id] > 1]

    def cached_blocks(self) -> list[int]:
        """The cached blocks, least recently used first."""
        return list(self._cached)

    def withheld_blocks(self) -> list[int]:
        """The blocks out of use."""
        return list(self._withheld)

    def pinned_blocks(self) -> list[int]:
        """The blocks that pins hold, one that is pinned twice twice."""
        return list(self._pins.elements())

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks with one reference each; raises OutOfBlocksError and takes none if there are fewer."""
        if count > self.num_available:
            raise OutOfBlocksError(f"{count} blocks asked for, {self.num_available} of {self.num_usable} available")
        blocks = self.free_runs.take(count)
        blocks += [self._evict_one() for _ in range(count - len(blocks))]
        return self._hand_out(blocks)

    def allocate_run(self, count: int) -> list[int] | None:
        """Take `count` neighbouring free blocks, best fit, with one reference each; None if no run is that long."""
        run = self.free_runs.take_run(count)
        return None if run is None else self._hand_out(run)

    def extend_run(self, last_block: int) -> int | None:
        """Take the block behind `last_block`, if it is free; None otherwise."""
        return self._hand_out([last_block + 1])[0] if self.free_runs.take_front(last_block + 1) else None

    def retain(self, block_ids: Iterable[int]) -> None:
        """Add a reference to each block, used or cached; raises InvalidBlockError for any other."""
        block_ids = list(block_ids)
        for block_id in block_ids:
            if self.references(block_id) == 0 and block_id not in self._cached:
                raise InvalidBlockError(f"block {block_id} is free: there is nothing to share")
        for block_id in block_ids:
            self._cached.pop(block_id, None)
            self._references[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drop a reference of each block of a row; raises InvalidBlockError for a block that nobody holds."""
        for block_id in block_ids:
            if self.references(block_id) == 0:
                raise InvalidBlockError(f"block {block_id} is released twice: nobody holds it")
        # Last block first: of a cached chain the tail must go before the prefix that makes it reachable.
        for block_id in reversed(block_ids):
            self._references[block_id] -= 1
            if self._references[block_id] == 0:
                self._retire(block_id)

    def pin(self, block_ids: Sequence[int]) -> None:
        """Hold blocks for as long as the engine runs: no eviction takes a pinned prefix. Raises as `retain` does."""
        self.retain(block_ids)
        self._pins.update(block_ids)

    def unpin(self, block_ids: Sequence[int]) -> None:
        """Give up one pin of each block; raises InvalidBlockError for a block that is not pinned."""
        for block_id in block_ids:
            if block_id not in self._pins:
                raise InvalidBlockError(f"block {block_id} is not pinned")
        self._pins -= Counter(block_ids)
        self.release(block_ids)

    def match_prefix(self, hashes: Sequence[bytes]) -> list[int]:
        """Blocks of the longest prefix of `hashes` that the index names, in order; takes no reference."""
        matched = []
        for block_hash in hashes:
            block_id = self._block_of_hash.get(block_hash)
            if block_id is None:
                break
            matched.append(block_id)
        return matched

    def register(self, block_id: int, block_hash: bytes) -> None:
        """Name a full block that a step has written; a content that already has a name keeps its first block."""
        if self.references(block_id) == 0:
            raise InvalidBlockError(f"block {block_id} cannot be registered: nobody holds it")
        if block_hash in self._block_of_hash or block_id in self._hash_of_block:
            return
        self._block_of_hash[block_hash] = block_id
        self._hash_of_block[block_id] = block_hash

    def forget(self, block_id: int) -> None:
        """Take a block's name away, because its content is lost; a cached block becomes free."""
        block_hash = self._hash_of_block.pop(block_id, None)
        if block_hash is not None:
            del self._block_of_hash[block_hash]
        if block_id in self._cached:
            del self._cached[block_id]
            self.free_runs.add(block_id)

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Let free blocks take the places of used or cached ones: (source, destination), in order.

        References, pins and names move along, and the sources are free then. Raises InvalidBlockError unless a free
        run begins at each destination: compaction fills holes from below.
        """
        for source, destination in moves:
            if self.references(source) == 0 and source not in self._cached:
                raise InvalidBlockError(f"block {source} is free: there is nothing to move")
            if not self.free_runs.take_front(destination):
                raise InvalidBlockError(f"block {destination} is not the first of a free run")
            self._references[destination], self._references[source] = self._references[source], 0
            if source in self._pins:
                self._pins[destination] = self._pins.pop(source)
            if source in self._hash_of_block:
                block_hash = self._hash_of_block[destination] = self._hash_of_block.pop(source)
                self._block_of_hash[block_hash] = destination
            self.free_runs.add(source)
        moved = dict(moves)
        self._cached = OrderedDict((moved.get(block_id, block_id), None) for block_id in self._cached)

    def evict(self, count: int) -> None:
        """Make up to `count` cached blocks free, the least recently used first."""
        for _ in range(min(count, self.num_cached)):
            self.free_runs.add(self._evict_one())

    def withhold(self, count: int) -> int:
        """Take up to `count` blocks out of use, free ones from the upper end, then cached ones; returns how many."""
        blocks = self.free_runs.take_top(count)
        while len(blocks) < count and self._cached:
            blocks.append(self._evict_one())
        self._withheld += blocks
        return len(blocks)

    def restore(self, count: int) -> int:
        """Put up to `count` withheld blocks back into use; returns how many."""
        restored = min(count, len(self._withheld))
        for _ in range(restored):
            self.free_runs.add(self._withheld.pop())
        return restored

    def take_evictions(self) -> list[tuple[int, bytes]]:
        """Blocks that lost a named content since the last call, with its name; the next step will overwrite them."""
        evictions, self._evictions = self._evictions, []
        return evictions

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block is in exactly one state and the index names live content only."""
        self.free_runs.check_integrity()
        used = {block_id for block_id, count in enumerate(self._references) if count}
        states = {"free": set(self.free_runs), "cached": set(self._cached), "used": used}
        states["withheld"] = set(self._withheld)
        if min(self._references) < 0:
            raise IntegrityError("a block has a negative reference count")
        if Counter(chain.from_iterable(states.values())) != Counter(range(1, self.num_blocks)):
            raise IntegrityError("a block is in two states at once, or in none")
        if len(self._withheld) != len(states["withheld"]):
            raise IntegrityError("a block is withheld twice")
        if any(self._references[block_id] < pins for block_id, pins in self._pins.items()):
            raise IntegrityError("a block has more pins than references")
        if {h: b for b, h in self._hash_of_block.items()} != self._block_of_hash:
            raise IntegrityError("the two sides of the prefix index differ")
        if not states["cached"] <= set(self._hash_of_block) <= states["cached"] | used:
            raise IntegrityError("the prefix index names a free block, or misses a cached one")

    def _hand_out(self, blocks: list[int]) -> list[int]:
        for block_id in blocks:
            self._references[block_id] = 1
        return blocks

    def _evict_one(self) -> int:
        block_id, _ = self._cached.popitem(last=False)
        block_hash = self._hash_of_block.pop(block_id)
        del self._block_of_hash[block_hash]
        self._evictions.append((block_id, block_hash))
        return block_id

    def _retire(self, block_id: int) -> None:
        if block_id in self._hash_of_block:
            self._cached[block_id] = None
        else:
            self.free_runs.add(block_id)

    def _check_id(self, block_id: int) -> None:
        if not NULL_BLOCK < block_id < self.num_blocks:
            raise InvalidBlockError(f"block {block_id} is outside 1..{self.num_blocks - 1}")
