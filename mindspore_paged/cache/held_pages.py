"""Which pages host memory holds, in order of use: bookkeeping alone, for one thread at a time."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mindspore_paged.errors import IntegrityError

_SEARCHED_PAGES = 256
"""How far from the cold end a page to copy is searched: with many small pages the search must stay short."""


@dataclass(eq=False)
class HeldPage:
    """A page, read-only, and what the worker has done with it."""

    page: np.ndarray
    checksum: str | None = None  # None until it is computed
    offered: bool = False  # to the tier below: it has a copy, or could not take one


class HeldPages:
    """Pages within `capacity_bytes`, the least recently used first; `touch`, `add`, `remove` and `clear` mutate."""

    def __init__(self, capacity_bytes: int):
        self.capacity_bytes = capacity_bytes
        self.num_bytes = 0
        self._pages: OrderedDict[bytes, HeldPage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._pages

    def look_up(self, block_hash: bytes) -> HeldPage | None:
        """The page, without counting as a use."""
        return self._pages.get(block_hash)

    def touch(self, block_hash: bytes) -> HeldPage | None:
        """The page, which is the most recently used now; None if it is not held."""
        held = self._pages.get(block_hash)
        if held is not None:
            self._pages.move_to_end(block_hash)
        return held

    def add(self, block_hash: bytes, held: HeldPage) -> dict[bytes, HeldPage]:
        """Hold a page that is not held and not above the capacity; returns the pages that had to go."""
        evicted = {}
        while self.num_bytes + held.page.nbytes > self.capacity_bytes:
            coldest = next(iter(self._pages))
            evicted[coldest] = self.remove(coldest)
        self._pages[block_hash] = held
        self.num_bytes += held.page.nbytes
        return evicted

    def remove(self, block_hash: bytes) -> HeldPage | None:
        """Hold the page no longer; None if it was not held."""
        held = self._pages.pop(block_hash, None)
        if held is not None:
            self.num_bytes -= held.page.nbytes
        return held

    def clear(self) -> None:
        """Hold nothing."""
        self._pages.clear()
        self.num_bytes = 0

    def coldest_not_offered(self, reserve_bytes: float) -> tuple[bytes, HeldPage] | None:
        """The next page to copy below; None if `reserve_bytes`, and a page's, are free or have been copied already."""
        ready = self.capacity_bytes - self.num_bytes
        for block_hash, held in islice(self._pages.items(), _SEARCHED_PAGES):
            if ready >= max(reserve_bytes, held.page.nbytes):
                return None
            if not held.offered:
                return block_hash, held
            ready += held.page.nbytes
        return None

    def check_integrity(self) -> None:
        """Raise IntegrityError unless the pages add up, are within the capacity and cannot be written."""
        num_bytes = sum(held.page.nbytes for held in self._pages.values())
        if num_bytes != self.num_bytes or num_bytes > self.capacity_bytes:
            raise IntegrityError(
                f"the host tier holds {num_bytes} bytes of at most {self.capacity_bytes}, and counts {self.num_bytes}"
            )
        if any(held.page.flags.writeable for held in self._pages.values()):
            raise IntegrityError("a page of the host tier can be written")
