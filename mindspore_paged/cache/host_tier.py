"""Second tier of the pager: pages of full blocks in host memory, by the name of the block."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock

import numpy as np

from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.held_pages import HeldPage, HeldPages
from mindspore_paged.cache.page_format import page_checksum
from mindspore_paged.errors import ConfigError, IntegrityError, InvalidBlockError

log = logging.getLogger("mindspore_paged")

RESERVE = 1 / 4
"""Share of the capacity that a burst of puts may take without a loss: free, or already copied to the tier below."""


class HostTier:
    """Pages within `capacity_bytes` of host memory, the least recently used evicted first; `below` catches them.

    ::

        put ──> unsealed ──worker──> sealed ──worker──> copied below ──> evicted
                            │ checksum        │ the coldest, before they must go
        get <───────────────┴─────────────────┴──── prefetch, or at once ◄─── below

    Pages are copied below ahead of their eviction, so that put() always finds room at once and memory stays within the
    capacity (and the one page that the worker has in hand). A page that is evicted before its turn is dropped: put()
    may do that, a page that comes up may not.

    The engine's thread calls the public methods, one worker does the rest. `_lock` guards all bookkeeping and is never
    held during I/O or a checksum. `_file_lock` is held during every call of `below` but contains() and statistics(),
    which look at memory only; whoever needs both takes `_file_lock` first.
    """

    def __init__(self, capacity_bytes: int, below: FileTier | None = None):
        """Hold nothing yet; raises ConfigError for a capacity below 1 byte."""
        if capacity_bytes < 1:
            raise ConfigError(f"the host tier has a capacity of {capacity_bytes} bytes; it must be at least 1")
        self.capacity_bytes = capacity_bytes
        self.below = below
        self._lock = Lock()
        self._file_lock = Lock()
        self._held = HeldPages(capacity_bytes)
        self._unsealed: dict[bytes, HeldPage] = {}  # held pages whose checksum is to be computed, in this order
        self._wanted: dict[bytes, None] = {}  # pages to bring up from below, in this order
        self._counts = dict.fromkeys(("hits", "misses", "damaged", "dropped", "spilled", "loaded", "errors"), 0)
        self._last_error: str | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="host-tier")
        self._work: Future | None = None
        self._working = False
        self._closed = False

    def put(self, block_hash: bytes, page: np.ndarray) -> None:
        """Take over a contiguous page of any shape and type, which nobody may write any more; never waits for I/O.

        A name that is held already keeps its content and counts as used: one name, one content. A page larger than
        the capacity is dropped, and so is every page after close(). Raises InvalidBlockError if it is not contiguous.
        """
        if not page.flags.c_contiguous:
            raise InvalidBlockError(f"the page of block {block_hash.hex()} is not contiguous")
        page.flags.writeable = False
        with self._lock:
            if self._held.touch(block_hash) is None:
                held = HeldPage(page, offered=self._is_below(block_hash))
                if self._hold(block_hash, held):
                    self._unsealed[block_hash] = held
                else:
                    self._counts["dropped"] += 1
            self._start_work()

    def match(self, hashes: Sequence[bytes]) -> int:
        """How many leading pages are here or below; no I/O, so get() may still find one of them gone or damaged."""
        with self._lock:
            for count, block_hash in enumerate(hashes):
                if block_hash not in self._held and not self._is_below(block_hash):
                    return count
        return len(hashes)

    def prefetch(self, hashes: Sequence[bytes]) -> None:
        """Bring pages up from below in the background, in this order, and keep those that are here; never waits."""
        with self._lock:
            for block_hash in reversed(hashes):  # the head of a chain, without which the rest is useless, stays longest
                self._held.touch(block_hash)
            missing = [block_hash for block_hash in hashes if block_hash not in self._held]
            self._wanted.update((block_hash, None) for block_hash in missing if self._is_below(block_hash))
            self._start_work()

    def get(self, block_hash: bytes) -> np.ndarray | None:
        """The page, read-only, or None if it is gone or damaged; it counts as the most recently used.

        A page that is only below is read now, or awaited if the worker is reading it. A page that the worker has not
        sealed yet has nothing to be checked against and is returned as it is.
        """
        with self._lock:
            held = self._held.touch(block_hash)
            self._start_work()
        if held is None:
            held = self._load(block_hash)
        elif held.checksum is not None and page_checksum(block_hash, held.page) != held.checksum:
            self.discard(block_hash)
            self._count("damaged")
            held = None
        self._count("misses" if held is None else "hits")
        return None if held is None else held.page

    def discard(self, block_hash: bytes) -> None:
        """Forget the page here and below, whatever the worker was about to do with it."""
        with self._file_lock:
            with self._lock:
                self._held.remove(block_hash)
                self._unsealed.pop(block_hash, None)
            if self.below is not None:
                self._try(self.below.discard, block_hash)

    def clear(self) -> None:
        """Forget every page here and below."""
        with self._file_lock:
            with self._lock:
                self._forget_all()
            if self.below is not None:
                self._try(self.below.clear)

    def wait_until_idle(self) -> None:
        """Return when every page is sealed, every wanted one here, and the reserve filled: for tests and figures."""
        self._worker.submit(lambda: None).result()

    def __enter__(self) -> "HostTier":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Stop the worker after the page in its hands, and forget what is here; what is below stays. Idempotent."""
        with self._lock:
            self._closed = True
            self._forget_all()
        self._worker.shutdown()

    def statistics(self) -> dict:
        """What is held now and counts since the start; under "below" those of the tier below, or None.

        `spilled` pages were copied below, `loaded` ones came up, `dropped` ones are lost: too large, evicted before
        they were copied, or refused below. `errors` counts failures of I/O, of which `last_error` is the latest.
        """
        below = None if self.below is None else self.below.statistics()
        with self._lock:
            held = {"pages": len(self._held), "bytes": self._held.num_bytes, "capacity_bytes": self.capacity_bytes}
            return {**held, **self._counts, "last_error": self._last_error, "below": below}

    def check_integrity(self) -> None:
        """Raise IntegrityError unless pages add up within the capacity and the worker is sound; below likewise."""
        with self._file_lock, self._lock:
            self._held.check_integrity()
            if any(self._held.look_up(block_hash) is not held for block_hash, held in self._unsealed.items()):
                raise IntegrityError("the host tier is to seal a page that it does not hold")
            if self.below is not None:
                self.below.check_integrity()
        if self._work is not None and self._work.done() and self._work.exception() is not None:
            raise IntegrityError("the worker of the host tier has failed") from self._work.exception()

    # The worker's jobs: a page each, and the most urgent first.

    def _start_work(self) -> None:
        if self._working or self._closed:
            return
        job = self._next_job()
        if job is not None:
            self._working = True
            self._work = self._worker.submit(self._work_from, job)
            self._work.add_done_callback(_log_failure)

    def _work_from(self, job: Callable[[], object] | None) -> None:
        while job is not None:
            job()
            with self._lock:
                job = self._next_job()
                self._working = job is not None

    def _next_job(self) -> Callable[[], object] | None:
        if self._unsealed:
            block_hash = next(iter(self._unsealed))
            return partial(self._seal, block_hash, self._unsealed.pop(block_hash))
        if self.below is None:
            return None
        reserve = 0 if self._wanted else RESERVE * self.capacity_bytes
        to_copy = self._held.coldest_not_offered(reserve)
        if to_copy is not None:  # before any load, which takes only room that costs nobody the only copy
            return partial(self._spill, *to_copy)
        return partial(self._load, next(iter(self._wanted))) if self._wanted else None

    def _seal(self, block_hash: bytes, held: HeldPage) -> None:
        held.checksum = page_checksum(block_hash, held.page)

    def _spill(self, block_hash: bytes, held: HeldPage) -> None:
        with self._file_lock:
            with self._lock:
                if self._held.look_up(block_hash) is not held:
                    return  # discarded or evicted meanwhile
                held.offered = True
            stored = self._try(self.below.put, block_hash, held.page, held.checksum)
            self._count("spilled" if stored else "dropped")

    def _load(self, block_hash: bytes) -> HeldPage | None:
        """Bring a page up from below, on whichever thread; None if it is not there or damaged."""
        with self._file_lock:
            with self._lock:
                self._wanted.pop(block_hash, None)
                held = self._held.look_up(block_hash)
                if held is not None or not self._is_below(block_hash):
                    return held
            found = self._try(self.below.get, block_hash)
            if found is None:
                return None
            page, checksum = found
            held = HeldPage(page, checksum, offered=True)
            with self._lock:
                self._counts["loaded"] += 1
                room = self._held.coldest_not_offered(page.nbytes) is None  # it has a copy: no other is lost for it
                if room and block_hash not in self._held:  # put() may have come first
                    self._hold(block_hash, held)
                self._start_work()
            return held

    def _try(self, call: Callable, *arguments):
        """What the call returns, or None if the disk is full, gone or forbidden: the engine does without the page."""
        try:
            return call(*arguments)
        except OSError as error:
            with self._lock:
                self._counts["errors"] += 1
                is_first, self._last_error = self._last_error is None, str(error)
            if is_first:
                log.warning("the file tier has failed (later failures are only counted): %s", error)
            return None

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    # Under _lock.

    def _is_below(self, block_hash: bytes) -> bool:
        return self.below is not None and not self._closed and self.below.contains(block_hash)

    def _hold(self, block_hash: bytes, held: HeldPage) -> bool:
        """Hold the page and let go of what must make room; False if it is too large, or the tier closed."""
        if self._closed or held.page.nbytes > self.capacity_bytes:
            return False
        for evicted_hash, evicted in self._held.add(block_hash, held).items():
            self._unsealed.pop(evicted_hash, None)
            self._counts["dropped"] += not evicted.offered
        return True

    def _forget_all(self) -> None:
        self._held.clear()
        self._unsealed.clear()
        self._wanted.clear()


def _log_failure(work: Future) -> None:
    """Say at once that the worker met a bug; the tier goes on without it, and check_integrity() raises."""
    if work.exception() is not None:
        log.error("the worker of the host tier has failed", exc_info=work.exception())
