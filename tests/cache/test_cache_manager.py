"""CacheManager against a model that keeps the tokens of every row in a list, under any order of calls."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mindspore_paged.cache.block_pool import BlockPool, extend_block_hashes
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager

BLOCK_SIZE = 4
NUM_BLOCKS = 12
ROWS = 3
LONGEST = 24


class PagedRows(RuleBasedStateMachine):
    """`pages` is what a device would hold; `tokens` is what each row must read from it."""

    def __init__(self):
        super().__init__()
        self.cache = CacheManager(BlockPool(NUM_BLOCKS), BlockTable(ROWS, LONGEST // BLOCK_SIZE), BLOCK_SIZE)
        self.pages = {block_id: [None] * BLOCK_SIZE for block_id in range(NUM_BLOCKS)}
        self.tokens: dict[int, list[int]] = {}

    def write(self, row, start):
        """What a step does: the copies, then the tokens from `start` on; full blocks are registered afterwards."""
        for source, destination in self.cache.take_copies():
            self.pages[destination] = list(self.pages[source])
        blocks, tokens = self.cache.table.blocks(row), self.tokens[row]
        for position in range(start, len(tokens)):
            self.pages[blocks[position // BLOCK_SIZE]][position % BLOCK_SIZE] = tokens[position]
        hashes: list[bytes] = []
        extend_block_hashes(hashes, tokens, BLOCK_SIZE)
        self.cache.register(row, hashes, start // BLOCK_SIZE, len(hashes))

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST))
    def start(self, tokens):
        hashes: list[bytes] = []
        extend_block_hashes(hashes, tokens, BLOCK_SIZE)
        before = self.cache.pool.num_available, self.cache.table.num_free_rows
        admitted = self.cache.admit(hashes, len(tokens))
        if admitted is None:
            assert (self.cache.pool.num_available, self.cache.table.num_free_rows) == before
            return
        row, cached = admitted
        assert cached < len(tokens)
        assert self.cache.grow(row, cached, len(tokens)), "what admit accepts must fit"
        self.tokens[row] = list(tokens)
        self.write(row, cached)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def append(self, data, more):
        row = data.draw(st.sampled_from(sorted(self.tokens)))
        length = len(self.tokens[row])
        if length + len(more) > LONGEST:
            return
        held, available = self.cache.table.blocks(row), self.cache.pool.num_available
        if self.cache.grow(row, length, length + len(more)):
            self.tokens[row] += more
            self.write(row, length)
        else:
            assert (self.cache.table.blocks(row), self.cache.pool.num_available) == (held, available)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def fork(self, data):
        row = data.draw(st.sampled_from(sorted(self.tokens)))
        child = self.cache.fork(row)
        assert (child is None) == (len(self.tokens) == ROWS)
        if child is not None:
            self.tokens[child] = list(self.tokens[row])

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), after_growing=st.booleans())
    def free(self, data, after_growing):
        """End a row; with `after_growing` in the middle of a step, its copies still pending."""
        row = data.draw(st.sampled_from(sorted(self.tokens)))
        length = len(self.tokens.pop(row))
        if after_growing and length < LONGEST:
            self.cache.grow(row, length, length + 1)
        self.cache.free(row)

    @invariant()
    def every_row_reads_its_own_tokens(self):
        for row, tokens in self.tokens.items():
            blocks = self.cache.table.blocks(row)
            assert len(blocks) == -(-len(tokens) // BLOCK_SIZE)
            assert [self.pages[block][i] for block in blocks for i in range(BLOCK_SIZE)][: len(tokens)] == tokens

    @invariant()
    def books_balance(self):
        self.cache.check_integrity()
        pool = self.cache.pool
        assert pool.num_free + pool.num_used + pool.num_cached == NUM_BLOCKS - 1


TestPagedRows = PagedRows.TestCase
TestPagedRows.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_a_copy_for_a_row_that_is_freed_is_not_done():
    cache = CacheManager(BlockPool(NUM_BLOCKS), BlockTable(ROWS, LONGEST // BLOCK_SIZE), BLOCK_SIZE)
    row, _ = cache.admit([], 2)
    assert cache.grow(row, 0, 2)
    freed, kept = cache.fork(row), cache.fork(row)
    for child in (freed, kept):
        assert cache.grow(child, 2, 3)
    cache.free(freed)
    assert cache.take_copies() == [(cache.table.blocks(row)[0], cache.table.blocks(kept)[0])]
    assert cache.take_copies() == []
