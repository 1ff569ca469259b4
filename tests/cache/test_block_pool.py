import pytest

from mindspore_paged.cache.block_pool import BlockPool, extend_block_hashes, hash_block
from mindspore_paged.errors import InvalidBlockError, OutOfBlocksError


def named(pool: BlockPool, name: bytes) -> int:
    """A block that a step has filled and registered, still held."""
    (block_id,) = pool.allocate(1)
    pool.register(block_id, name)
    return block_id


def test_the_null_block_is_never_handed_out():
    pool = BlockPool(5)
    assert sorted(pool.allocate(4)) == [1, 2, 3, 4]


def test_an_allocation_that_does_not_fit_takes_nothing():
    pool = BlockPool(5)
    pool.allocate(2)
    with pytest.raises(OutOfBlocksError, match="3 blocks asked for, 2 of 4 available"):
        pool.allocate(3)
    assert pool.num_available == 2
    pool.check_integrity()


def test_a_shared_block_is_free_only_after_its_last_release():
    pool = BlockPool(3)
    (block_id,) = pool.allocate(1)
    pool.retain([block_id])
    pool.release([block_id])
    assert pool.num_used == 1
    pool.release([block_id])
    assert pool.num_free == 2


@pytest.mark.parametrize("misuse", ["release", "retain", "register"])
def test_a_free_block_cannot_be_used(misuse):
    pool = BlockPool(3)
    (block_id,) = pool.allocate(1)
    pool.release([block_id])
    with pytest.raises(InvalidBlockError, match=f"block {block_id}"):
        {
            "release": lambda: pool.release([block_id]),
            "retain": lambda: pool.retain([block_id]),
            "register": lambda: pool.register(block_id, b"name"),
        }[misuse]()
    pool.check_integrity()


@pytest.mark.parametrize("block_id", [-1, 0, 3, 1000])
def test_a_block_outside_the_pool_is_refused(block_id):
    pool = BlockPool(3)
    for call in (pool.references, lambda b: pool.retain([b]), lambda b: pool.release([b])):
        with pytest.raises(InvalidBlockError, match=rf"block {block_id} is outside 1\.\.2"):
            call(block_id)


def test_a_bad_block_among_good_ones_changes_nothing():
    pool = BlockPool(4)
    held = pool.allocate(2)
    with pytest.raises(InvalidBlockError):
        pool.release([held[0], 3])
    assert [pool.references(block_id) for block_id in held] == [1, 1]


def test_a_pool_without_a_block_to_give_is_refused():
    with pytest.raises(InvalidBlockError, match="a pool of 1 blocks"):
        BlockPool(1)


def test_a_released_prefix_is_found_until_it_is_evicted_and_then_no_more():
    pool = BlockPool(3)
    block_id = named(pool, b"a")
    pool.release([block_id])
    assert pool.match_prefix([b"a"]) == [block_id]
    assert (pool.num_free, pool.num_cached, pool.num_used) == (1, 1, 0)
    pool.allocate(2)  # the second one must take the cached block
    assert pool.match_prefix([b"a"]) == []
    pool.check_integrity()


def test_a_prefix_is_kept_while_there_are_free_blocks():
    pool = BlockPool(5)
    block_id = named(pool, b"a")
    pool.release([block_id])
    assert block_id not in pool.allocate(3)
    assert pool.match_prefix([b"a"]) == [block_id]
    assert pool.allocate(1) == [block_id]


def test_the_least_recently_used_prefix_is_evicted_first():
    pool = BlockPool(4)
    blocks = [named(pool, name) for name in (b"a", b"b", b"c")]
    for block_id in blocks:
        pool.release([block_id])
    pool.retain([blocks[0]])  # a hit makes the oldest the youngest
    pool.release([blocks[0]])
    pool.allocate(1)
    assert [bool(pool.match_prefix([name])) for name in (b"a", b"b", b"c")] == [True, False, True]


def test_the_tail_of_a_chain_is_evicted_before_its_head():
    pool = BlockPool(4)
    chain = [named(pool, name) for name in (b"1", b"12", b"123")]
    pool.release(chain)
    pool.allocate(1)
    assert pool.match_prefix([b"1", b"12", b"123"]) == chain[:2]


def test_a_match_stops_at_the_first_gap():
    pool = BlockPool(4)
    first, _, third = (named(pool, name) for name in (b"1", b"x", b"123"))
    assert pool.match_prefix([b"1", b"12", b"123"]) == [first]
    assert third


def test_a_content_that_has_a_name_keeps_its_first_block():
    pool = BlockPool(4)
    first, second = named(pool, b"a"), named(pool, b"a")
    assert pool.match_prefix([b"a"]) == [first]
    pool.release([second])
    assert pool.num_free == 2  # the copy is worthless
    pool.check_integrity()


def test_a_name_depends_on_all_tokens_before_it():
    assert hash_block(b"", [1, 2]) != hash_block(b"", [2, 1])
    assert hash_block(hash_block(b"", [1]), [2]) != hash_block(hash_block(b"", [3]), [2])


def test_only_full_blocks_get_names_and_known_ones_are_kept():
    hashes: list[bytes] = []
    extend_block_hashes(hashes, [1, 2, 3], 4)
    assert hashes == []
    extend_block_hashes(hashes, [1, 2, 3, 4, 5], 4)
    assert hashes == [hash_block(b"", [1, 2, 3, 4])]
    extend_block_hashes(hashes, list(range(1, 9)), 4)
    assert hashes == [hash_block(b"", [1, 2, 3, 4]), hash_block(hashes[0], [5, 6, 7, 8])]
