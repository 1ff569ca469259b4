"""The ids of the KV pages: who holds which, which are free, and which still hold a reusable prefix."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from mindspore_paged.errors import IntegrityError, InvalidBlockError, OutOfBlocksError

NULL_BLOCK = 0
"""Never handed out: entries of block_table that hold no block point to it, so that every entry is a valid id."""

_ROOT_HASH = b""


def hash_block(parent_hash: bytes, token_ids: Sequence[int]) -> bytes:
    """Name of a full block: a digest of its tokens and, through `parent_hash`, of all tokens before it.

    SHA-256, because a hit is taken on the digest alone: a collision would answer one user with another's prefix.
    """
    return sha256(parent_hash + np.asarray(token_ids, np.int32).tobytes()).digest()


def extend_block_hashes(hashes: list[bytes], token_ids: Sequence[int], block_size: int) -> None:
    """Append to `hashes` the names of the full blocks of `token_ids` that it does not hold yet."""
    for index in range(len(hashes), len(token_ids) // block_size):
        parent = hashes[-1] if hashes else _ROOT_HASH
        hashes.append(hash_block(parent, token_ids[index * block_size : (index + 1) * block_size]))


class BlockPool:
    """Counts references to block ids and keeps the prefix index; what the pages hold it never sees.

    Every block but the null block is in one of three states::

        free    nobody holds it, its content is worthless     allocate() takes these first
        used    one reference for each row that holds it      never evicted
        cached  nobody holds it, the prefix index names it    allocate() evicts the least recently used

    `allocate`, `retain`, `release` and `register` mutate; everything else only looks.
    """

    def __init__(self, num_blocks: int):
        """Start with blocks 1 .. num_blocks - 1 free; raises InvalidBlockError below two blocks."""
        if num_blocks < 2:
            raise InvalidBlockError(f"a pool of {num_blocks} blocks has none to hand out; it needs at least 2")
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))  # a stack: the block freed last is warm in cache
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._block_of_hash: dict[bytes, int] = {}
        self._hash_of_block: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds and no prefix names."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds but a later prompt may hit."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that allocate() can give: the free and the cached ones."""
        return self.num_free + self.num_cached

    @property
    def num_used(self) -> int:
        """Blocks that at least one row holds."""
        return self.num_blocks - 1 - self.num_available

    def references(self, block_id: int) -> int:
        """How many rows hold the block."""
        self._check_id(block_id)
        return self._references[block_id]

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks with one reference each; raises OutOfBlocksError and takes none if there are fewer."""
        if count > self.num_available:
            raise OutOfBlocksError(f"{count} blocks asked for, {self.num_available} of {self.num_blocks - 1} available")
        return [self._take_one() for _ in range(count)]

    def retain(self, block_ids: Iterable[int]) -> None:
        """Add a reference to each block, used or cached; raises InvalidBlockError for a free one."""
        block_ids = list(block_ids)
        for block_id in block_ids:
            self._check_id(block_id)
            if self._references[block_id] == 0 and block_id not in self._cached:
                raise InvalidBlockError(f"block {block_id} is free: there is nothing to share")
        for block_id in block_ids:
            self._cached.pop(block_id, None)
            self._references[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drop a reference of each block of a row; raises InvalidBlockError for a block that nobody holds."""
        for block_id in block_ids:
            self._check_id(block_id)
            if self._references[block_id] == 0:
                raise InvalidBlockError(f"block {block_id} is released twice: nobody holds it")
        # Last block first: of a cached chain the tail must go before the prefix that makes it reachable.
        for block_id in reversed(block_ids):
            self._references[block_id] -= 1
            if self._references[block_id] == 0:
                self._retire(block_id)

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
        self._check_id(block_id)
        if self._references[block_id] == 0:
            raise InvalidBlockError(f"block {block_id} cannot be registered: nobody holds it")
        if block_hash in self._block_of_hash or block_id in self._hash_of_block:
            return
        self._block_of_hash[block_hash] = block_id
        self._hash_of_block[block_id] = block_hash

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block is in exactly one state and the index names live content only."""
        free, cached = set(self._free), set(self._cached)
        used = {block_id for block_id, count in enumerate(self._references) if count}
        if any(count < 0 for count in self._references):
            raise IntegrityError("a block has a negative reference count")
        if len(free) != len(self._free) or free & cached or free & used or cached & used:
            raise IntegrityError("a block is in two states at once")
        if free | cached | used != set(range(1, self.num_blocks)):
            raise IntegrityError("free, used and cached blocks do not add up to the pool")
        if {h: b for b, h in self._hash_of_block.items()} != self._block_of_hash:
            raise IntegrityError("the two sides of the prefix index differ")
        if not cached <= set(self._hash_of_block) <= cached | used:
            raise IntegrityError("the prefix index names a free block, or misses a cached one")

    def _take_one(self) -> int:
        if self._free:
            block_id = self._free.pop()
        else:
            block_id, _ = self._cached.popitem(last=False)
            del self._block_of_hash[self._hash_of_block.pop(block_id)]
        self._references[block_id] = 1
        return block_id

    def _retire(self, block_id: int) -> None:
        if block_id in self._hash_of_block:
            self._cached[block_id] = None
        else:
            self._free.append(block_id)

    def _check_id(self, block_id: int) -> None:
        if not NULL_BLOCK < block_id < self.num_blocks:
            raise InvalidBlockError(f"block {block_id} is outside 1..{self.num_blocks - 1}")
