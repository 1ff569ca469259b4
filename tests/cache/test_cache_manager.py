"""The whole pager, driven in any order against a model that keeps every row's tokens in a list.

`pages` is what a device would hold: the machine does the transfers and writes that the pager asks for, and then reads
every row back through its blocks. A wrong block, a stale name, a lost move: each makes some row read other tokens.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mindspore_paged.cache.block_pool import BlockPool, extend_block_hashes
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.cache.elasticity import ElasticCapacity

BLOCK_SIZE = 4
NUM_BLOCKS = 14
ROWS = 3
LONGEST = 24
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST)


class DictTier:
    """A tier that forgets at random, as a full or damaged one does."""

    def __init__(self):
        self.pages: dict[bytes, np.ndarray] = {}

    def match(self, hashes):
        return next((i for i, block_hash in enumerate(hashes) if block_hash not in self.pages), len(hashes))

    def get(self, block_hash):
        return self.pages.get(block_hash)


def hashes_of(tokens) -> list[bytes]:
    hashes: list[bytes] = []
    extend_block_hashes(hashes, tokens, BLOCK_SIZE)
    return hashes


class Pager(RuleBasedStateMachine):
    """With a window, rows grow longer than the pool."""

    def __init__(self, window=0):
        super().__init__()
        self.window = window
        self.longest = 4 * LONGEST if window else LONGEST
        self.tier = DictTier()
        self.cache = CacheManager(
            BlockPool(NUM_BLOCKS),
            BlockTable(ROWS, self.longest // BLOCK_SIZE),
            BLOCK_SIZE,
            host_tier=self.tier,
            capacity=ElasticCapacity(LONGEST // BLOCK_SIZE, NUM_BLOCKS - 1, patience=2),
            window=window,
        )
        self.pages = np.full((NUM_BLOCKS, BLOCK_SIZE), -1)
        self.tokens: dict[int, list[int]] = {}
        self.pins: list[list[int]] = []  # the tokens that pinned blocks must keep
        self.content_of_name: dict[bytes, list[int]] = {}

    def count_step(self):
        """For whoever wants to know how many steps a run has."""

    def do_transfers(self):
        transfers = self.cache.take_transfers()
        for block, name in transfers.saves:
            self.tier.pages[name] = self.pages[block].copy()
        for block, page in transfers.loads:
            self.pages[block] = page
        for source, destination in transfers.copies:
            self.pages[destination] = self.pages[source]

    def write(self, row, start):
        """What a step does: the transfers, then the tokens from `start` on; full blocks are registered afterwards."""
        self.do_transfers()
        tokens = self.tokens[row]
        self.put(row, start, tokens[start:])
        hashes = hashes_of(tokens)
        for index, name in enumerate(hashes):
            self.content_of_name[name] = tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
        self.cache.register(row, hashes, self.cache.table.first(row), len(hashes))
        self.cache.give_back(row, len(tokens))

    def put(self, row, start, tokens):
        for position, token in enumerate(tokens, start):
            block = self.cache.table.block_tables[row, position // BLOCK_SIZE]
            assert block > 0, "a token would be written to no block"
            self.pages[block, position % BLOCK_SIZE] = token

    def a_row(self, data):
        return data.draw(st.sampled_from(sorted(self.tokens)))

    @rule(tokens=TOKENS, times=st.integers(1, 4), contiguous=st.booleans(), chunk=st.none() | st.integers(1, 9))
    def start(self, tokens, times, contiguous, chunk):
        tokens = (tokens * times)[: self.longest]
        before = self.cache.pool.num_used, self.cache.table.num_free_rows
        admitted = self.cache.admit(hashes_of(tokens), len(tokens), self.longest if contiguous else 0, chunk)
        if admitted is None:
            assert (self.cache.pool.num_used, self.cache.table.num_free_rows) == before
            return
        row, known = admitted
        assert known < len(tokens)
        for start in range(known, len(tokens), chunk or len(tokens)):
            end = min(start + (chunk or len(tokens)), len(tokens))
            assert self.cache.grow(row, start, end), "what admit accepts must fit"
            self.tokens[row] = tokens[:end]
            self.write(row, start)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def append(self, data, more):
        row = self.a_row(data)
        length = len(self.tokens[row])
        if length + len(more) > self.longest:
            return
        held, used = self.cache.table.blocks(row), self.cache.pool.num_used
        if self.cache.grow(row, length, length + len(more)):
            self.tokens[row] += more
            self.write(row, length)
        else:
            assert (self.cache.table.blocks(row), self.cache.pool.num_used) == (held, used)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), one=st.integers(0, 1), drafts=st.integers(1, 9), num_accepted=st.integers(0, 9))
    def append_with_drafts(self, data, one, drafts, num_accepted):
        """A token, and behind it guesses of which only the first are kept."""
        row = self.a_row(data)
        length, pool = len(self.tokens[row]), self.cache.pool
        if length == self.longest or not self.cache.grow(row, length, length + 1):
            return
        drafts = min(drafts, self.longest - length - 1, self.cache.num_tokens_without_eviction(row) - length - 1)
        cached, withheld = pool.cached_blocks(), pool.withheld_blocks()
        assert self.cache.grow(row, length + 1, length + 1 + drafts), "what is free must do"
        assert (pool.cached_blocks(), pool.withheld_blocks()) == (cached, withheld)
        self.do_transfers()
        self.put(row, length, [one] + [7] * drafts)
        self.tokens[row] += [one] + [7] * min(drafts, num_accepted)
        self.cache.trim(row, len(self.tokens[row]))
        self.write(row, length)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def fork(self, data):
        row = self.a_row(data)
        child = self.cache.fork(row, len(self.tokens[row]))
        assert (child is None) == (len(self.tokens) == ROWS)
        if child is not None:
            self.tokens[child] = list(self.tokens[row])

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def free(self, data):
        row = self.a_row(data)
        del self.tokens[row]
        self.cache.free(row)

    @rule(tokens=TOKENS, data=st.data())
    def abort_in_the_middle_of_a_step(self, tokens, data):
        """A row that got pages, loads and copies, and is gone before the device does any of it."""
        admitted = self.cache.admit(hashes_of(tokens), len(tokens))
        if admitted is not None:
            self.cache.grow(admitted[0], admitted[1], len(tokens))
            self.cache.free(admitted[0])
        if self.tokens:
            row = self.a_row(data)
            length = len(self.tokens.pop(row))
            if length < self.longest:
                self.cache.grow(row, length, length + 1)
            self.cache.free(row)
        self.do_transfers()

    @rule(max_moves=st.integers(0, 6))
    def compact(self, max_moves):
        longest = self.cache.pool.free_runs.longest
        moves = self.cache.compact(max_moves)
        for source, destination in moves:
            self.pages[destination] = self.pages[source]
        if max_moves == 6 and len(moves) < 6:
            assert self.cache.pool.free_runs.num_runs <= 1 + self.cache.pool.num_withheld
        assert self.cache.pool.free_runs.longest >= min(longest, 1)

    @rule(data=st.data())
    def lose_blocks(self, data):
        """The content of some blocks is gone: names go, rows that hold them must be given up."""
        blocks = data.draw(st.lists(st.integers(1, NUM_BLOCKS - 1), max_size=3, unique=True))
        pinned = self.cache.pool.pinned_blocks()
        blocks = [block for block in blocks if block not in pinned]
        self.pages[blocks] = -2
        for row in self.cache.forget_blocks(blocks):
            del self.tokens[row]
            self.cache.free(row)
        self.do_transfers()

    @precondition(lambda self: self.tokens and len(self.pins) < 2)
    @rule(data=st.data())
    def pin(self, data):
        tokens = self.tokens[self.a_row(data)]
        blocks = self.cache.pool.match_prefix(hashes_of(tokens))
        self.cache.pool.pin(blocks)
        self.pins.append(tokens[: len(blocks) * BLOCK_SIZE])

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self):
        self.cache.pool.unpin(self.cache.pool.match_prefix(hashes_of(self.pins.pop())))

    @rule()
    def follow_the_load(self):
        used = self.cache.pool.num_used
        usable = self.cache.adjust_capacity()
        assert used == self.cache.pool.num_used, "a live page was dropped"
        assert used <= usable <= NUM_BLOCKS - 1
        self.do_transfers()

    @precondition(lambda self: self.tier.pages)
    @rule(data=st.data())
    def forget_in_the_tier(self, data):
        del self.tier.pages[data.draw(st.sampled_from(sorted(self.tier.pages)))]

    @invariant()
    def every_row_reads_its_own_tokens(self):
        for row, tokens in self.tokens.items():
            first = self.cache.table.first(row) * BLOCK_SIZE
            assert first <= (max(0, len(tokens) + 1 - self.window) if self.window else 0), "the next token sees more"
            held = self.pages[self.cache.table.blocks(row)].reshape(-1)[: len(tokens) - first]
            assert held.tolist() == tokens[first:]

    @invariant()
    def a_window_bounds_what_rows_hold(self):
        for row in self.tokens:
            if self.window and row not in self.cache._reserved:
                assert self.cache.table.num_blocks(row) <= -(-self.window // BLOCK_SIZE) + 1

    @invariant()
    def every_pin_keeps_its_prefix(self):
        for tokens in self.pins:
            blocks = self.cache.pool.match_prefix(hashes_of(tokens))
            assert self.pages[blocks].reshape(-1).tolist() == tokens

    @invariant()
    def books_balance(self):
        self.count_step()
        self.cache.check_integrity({row: (len(tokens), f"row {row}") for row, tokens in self.tokens.items()})
        pool = self.cache.pool
        assert pool.num_free + pool.num_used + pool.num_cached + pool.num_withheld == NUM_BLOCKS - 1

    @invariant()
    def every_name_tells_the_truth(self):
        """Also of cached blocks, which no row reads: a later hit must find what the name says."""
        for name, content in self.content_of_name.items():
            for block in self.cache.pool.match_prefix([name]):
                assert self.pages[block].tolist() == content


def drive(min_steps=0, window=0, **options) -> None:
    run_state_machine_as_test(
        lambda: Pager(window),
        settings=settings(deadline=None, suppress_health_check=list(HealthCheck), **options),
        _min_steps=min_steps,
    )


def test_the_pager_in_any_order():
    drive(max_examples=60, stateful_step_count=60)


@pytest.mark.parametrize("window", [1, 4, 6, 13])
def test_the_pager_with_a_window_in_any_order(window):
    drive(window=window, max_examples=30, stateful_step_count=60)


def test_the_pager_in_any_order_for_thousands_of_steps_a_run(monkeypatch):
    # Hypothesis ends a run early that draws more than this, after some 300 steps.
    monkeypatch.setattr("hypothesis.internal.conjecture.engine.BUFFER_SIZE", 1 << 22)
    monkeypatch.setattr("hypothesis.stateful.BUFFER_SIZE", 1 << 22)
    steps = []
    monkeypatch.setattr(Pager, "count_step", lambda self: steps.append(self))
    drive(min_steps=2000, max_examples=3, stateful_step_count=2500)
    steps_of_a_run = Counter(map(id, steps)).values()
    assert sum(count > 2000 for count in steps_of_a_run if count > 1) >= 3  # one step: only set up


def test_a_row_longer_than_the_pool_runs_in_a_window():
    """Pieces of 8 tokens and a window of 6 take at most 5 blocks: all that there are."""
    cache = CacheManager(BlockPool(6), BlockTable(2, 50), BLOCK_SIZE, window=6)
    tokens = [number % 7 for number in range(190)]
    assert cache.admit([], len(tokens)) is None, "all at once it does not fit"
    assert cache.admit([], len(tokens), chunk_tokens=13) is None, "13 at once take up to 6 blocks"
    row, _ = cache.admit([], len(tokens), chunk_tokens=8)
    for start in range(0, len(tokens), 8):
        end = min(start + 8, len(tokens))
        assert cache.grow(row, start, end)
        cache.register(row, hashes_of(tokens), start // BLOCK_SIZE, end // BLOCK_SIZE)
        cache.give_back(row, end)
        cache.check_integrity({row: (end, "the row")})
        assert cache.table.num_blocks(row) <= 3
        np.testing.assert_array_equal(cache.table.device_copy()[row, : max(0, end - 5) // BLOCK_SIZE], 0)


def test_pages_that_a_window_left_behind_are_hit_and_not_held():
    cache = CacheManager(BlockPool(12), BlockTable(2, 10), BLOCK_SIZE, window=6)
    tokens = list(range(38))
    row, _ = cache.admit(hashes_of(tokens), len(tokens))
    assert cache.grow(row, 0, len(tokens))
    cache.register(row, hashes_of(tokens), 0, 9)
    cache.give_back(row, len(tokens))
    assert (cache.table.first(row), cache.table.num_blocks(row), cache.pool.num_cached) == (8, 2, 8)
    other, known = cache.admit(hashes_of(tokens), len(tokens))
    assert (known, cache.table.first(other), cache.table.blocks(other)) == (36, 7, cache.pool.match_prefix(
        hashes_of(tokens))[7:])  # fmt: skip
    cache.check_integrity({row: (38, "the first"), other: (36, "the second")})


def test_only_pages_of_the_window_are_loaded_from_below():
    tier, tokens = DictTier(), list(range(38))
    tier.pages = {name: np.full(BLOCK_SIZE, index) for index, name in enumerate(hashes_of(tokens))}
    cache = CacheManager(BlockPool(5), BlockTable(2, 10), BLOCK_SIZE, host_tier=tier, window=6)
    row, known = cache.admit(hashes_of(tokens), len(tokens), chunk_tokens=2)
    assert (known, cache.table.first(row)) == (36, 7)
    loads = cache.take_transfers().loads
    assert [(block, page[0]) for block, page in loads] == list(zip(cache.table.blocks(row), (7, 8), strict=True))
    cache.check_integrity({row: (36, "the row")})


def test_a_copy_for_a_row_that_is_freed_is_not_done():
    cache = CacheManager(BlockPool(NUM_BLOCKS), BlockTable(ROWS, LONGEST // BLOCK_SIZE), BLOCK_SIZE)
    row, _ = cache.admit([], 2)
    assert cache.grow(row, 0, 2)
    freed, kept = cache.fork(row, 2), cache.fork(row, 2)
    for child in (freed, kept):
        assert cache.grow(child, 2, 3)
    cache.free(freed)
    assert cache.take_transfers().copies == [(cache.table.blocks(row)[0], cache.table.blocks(kept)[0])]
    assert cache.take_transfers().copies == []
