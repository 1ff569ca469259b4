import errno
import logging
from threading import Event, Thread

import numpy as np
import pytest

from mindspore_paged.cache import file_tier, host_tier
from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.cache.page_format import page_checksum
from mindspore_paged.errors import ConfigError, IntegrityError, InvalidBlockError
from tests.cache.pages import DTYPES, PAGE_BYTES, GatedFileTier, format_of, is_page, make_page, name, path_of, write

ROOMY = 1 << 20


@pytest.fixture
def make_tier():
    """HostTier by pages of capacity; closed, and checked, at the end."""
    tiers = []

    def make(capacity_pages, below=None):
        tiers.append(HostTier(int(capacity_pages * PAGE_BYTES), below))
        return tiers[-1]

    yield make
    for tier in tiers:
        tier.close()
        tier.check_integrity()


@pytest.fixture
def below(tmp_path):
    return FileTier(tmp_path, ROOMY, format_of())


@pytest.fixture
def slow(tmp_path):
    tier = GatedFileTier(tmp_path, ROOMY, format_of())
    yield tier
    tier.gate.set()


def put(tier, *numbers):
    for number in numbers:
        tier.put(name(number), make_page(number))


def held(tier, numbers):
    """Which of the pages the tier would find; looks only."""
    return [number for number in numbers if tier.match([name(number)])]


@pytest.mark.parametrize("number", range(len(DTYPES)))
@pytest.mark.parametrize("idle", [False, True])
def test_a_page_comes_back_to_the_last_bit(make_tier, number, idle):
    tier = make_tier(2)
    put(tier, number)
    if idle:
        tier.wait_until_idle()
    assert is_page(tier.get(name(number)), number)
    assert tier.statistics()["hits"] == 1


def test_the_page_is_taken_over_not_copied(make_tier):
    tier = make_tier(2)
    page = make_page(1)
    tier.put(name(1), page)
    assert tier.get(name(1)) is page
    with pytest.raises(ValueError, match="read-only"):
        page[0, 0, 0] = 1


def test_put_and_get_do_not_wait_for_the_checksum(make_tier, monkeypatch):
    gate = Event()

    def slow_checksum(block_hash, page):
        assert gate.wait(10)
        return page_checksum(block_hash, page)

    monkeypatch.setattr(host_tier, "page_checksum", slow_checksum)
    tier = make_tier(3)
    put(tier, 0, 1, 2, 3, 4)
    assert held(tier, (0, 1, 2, 3, 4)) == [2, 3, 4], "room is counted when put is called"
    assert is_page(tier.get(name(3)), 3)
    tier.check_integrity()
    tier.discard(name(2))
    tier.check_integrity()
    gate.set()
    tier.wait_until_idle()
    assert is_page(tier.get(name(4)), 4)


def test_without_a_tier_below_the_least_recently_used_is_dropped(make_tier):
    tier = make_tier(3)
    put(tier, 1, 2, 3)
    tier.get(name(1))
    put(tier, 2)  # held already: counts as used
    put(tier, 4)
    assert held(tier, (1, 2, 3, 4)) == [1, 2, 4]
    assert tier.get(name(3)) is None
    counts = tier.statistics()
    assert (counts["pages"], counts["bytes"], counts["dropped"], counts["misses"]) == (3, 3 * PAGE_BYTES, 1, 1)


def test_a_page_above_the_capacity_is_dropped_and_nothing_makes_room_for_it(make_tier):
    tier = make_tier(1)
    put(tier, 1)
    tier.put(b"large", np.zeros(PAGE_BYTES + 1, np.int8))
    assert (tier.get(b"large"), tier.statistics()["dropped"]) == (None, 1)
    assert held(tier, [1]) == [1]


def test_match_is_the_leading_run_over_both_tiers(make_tier, below):
    write(below, 2)
    tier = make_tier(3, below)
    put(tier, 1, 3, 5)
    hashes = [name(number) for number in (1, 2, 3, 4, 5)]
    assert [tier.match(hashes[start:]) for start in range(5)] == [3, 2, 1, 0, 1]
    assert tier.match([]) == 0


def test_evicted_pages_are_found_below(make_tier, below):
    tier = make_tier(2, below)
    for number in range(8):
        put(tier, number)
        tier.wait_until_idle()
    assert all(is_page(tier.get(name(number)), number) for number in range(8))
    assert tier.statistics()["dropped"] == 0
    assert tier.statistics()["bytes"] <= 2 * PAGE_BYTES


def test_a_burst_within_the_reserve_loses_nothing_and_memory_is_bounded_beyond_it(make_tier, slow):
    slow.gate.set()
    tier = make_tier(8, slow)
    put(tier, *range(8))
    tier.wait_until_idle()
    slow.gate.clear()
    put(tier, 8, 9)
    assert tier.statistics()["dropped"] == 0
    put(tier, *range(10, 40))
    counts = tier.statistics()
    assert (counts["bytes"], counts["pages"]) == (8 * PAGE_BYTES, 8)
    assert counts["dropped"] > 0
    slow.gate.set()
    assert all(page is None or is_page(page, n) for n in range(40) for page in [tier.get(name(n))])


def test_a_page_that_has_a_copy_is_not_written_again(make_tier, below):
    write(below, 1)
    tier = make_tier(1, below)
    put(tier, 1)
    tier.wait_until_idle()
    assert tier.statistics()["spilled"] == 0
    put(tier, 2)
    tier.wait_until_idle()
    tier.get(name(1))
    tier.wait_until_idle()
    assert (tier.statistics()["spilled"], tier.statistics()["dropped"]) == (1, 0)


def test_after_a_use_another_page_is_the_next_to_copy(make_tier, below):
    tier = make_tier(2, below)
    put(tier, 1, 2)
    tier.wait_until_idle()
    tier.get(name(1))
    tier.wait_until_idle()
    put(tier, 3)
    assert tier.match([name(2)]) == 1


def test_pages_that_do_not_divide_the_capacity_are_copied_in_time(make_tier, below):
    tier = make_tier(2.7, below)
    for number in range(6):
        put(tier, number)
        tier.wait_until_idle()
    assert held(tier, range(6)) == list(range(6))


def test_prefetch_reads_beside_the_engine(make_tier, slow):
    write_all(slow, 1, 2)
    tier = make_tier(4, slow)
    put(tier, 3)
    tier.prefetch([name(1), name(2), name(7)])
    assert slow.entered.wait(10)
    # The worker stands in the middle of a read, and the engine goes on.
    assert tier.match([name(1), name(2), name(3)]) == 3
    put(tier, 4)
    assert is_page(tier.get(name(3)), 3)
    slow.gate.set()
    tier.wait_until_idle()
    assert is_page(tier.get(name(1)), 1)
    assert is_page(tier.get(name(2)), 2)
    reads = [block_hash for call, block_hash in slow.calls if call == "get"]
    assert reads == [name(1), name(2)], "in the order asked for, each once"


def test_get_awaits_a_prefetch_of_the_same_page(make_tier, slow):
    write_all(slow, 1)
    tier = make_tier(4, slow)
    tier.prefetch([name(1)])
    assert slow.entered.wait(10)
    got = []
    getter = Thread(target=lambda: got.append(tier.get(name(1))))
    getter.start()
    slow.gate.set()
    getter.join(10)
    assert is_page(got[0], 1)
    assert slow.calls == [("get", name(1))]


def test_a_page_put_while_it_is_fetched_is_held_once(make_tier, slow):
    write_all(slow, 1)
    tier = make_tier(4, slow)
    tier.prefetch([name(1)])
    assert slow.entered.wait(10)
    put(tier, 1)
    slow.gate.set()
    tier.wait_until_idle()
    tier.check_integrity()
    assert is_page(tier.get(name(1)), 1)


def test_prefetch_keeps_the_head_of_a_chain_longest(make_tier):
    tier = make_tier(3)
    put(tier, 1, 2, 3)
    tier.prefetch([name(1), name(2), name(3)])
    put(tier, 4)
    assert held(tier, (1, 2, 3)) == [1, 2]


def test_get_pushes_out_only_what_has_a_copy(make_tier, slow):
    write_all(slow, 1)
    slow.gate.set()
    tier = make_tier(2, slow)
    with tier._lock:
        tier._working = True  # the worker never gets round to copying
    put(tier, 2, 3)
    assert is_page(tier.get(name(1)), 1)
    assert held(tier, (1, 2, 3)) == [1, 2, 3]
    assert tier.statistics()["pages"] == 2


def test_prefetch_pushes_out_only_what_has_a_copy(make_tier, below):
    for number in range(4):
        write(below, number)
    tier = make_tier(4, below)
    put(tier, *range(10, 14))
    tier.prefetch([name(number) for number in range(4)])
    tier.wait_until_idle()
    assert held(tier, range(10, 14)) == [10, 11, 12, 13]
    assert tier.statistics()["dropped"] == 0
    assert all(is_page(tier.get(name(number)), number) for number in range(4))
    assert tier.statistics()["loaded"] == 4, "each was read once, and kept"


def test_what_runs_next_is_fetched_before_the_reserve_is_filled(make_tier, slow):
    write_all(slow, 0)
    tier = make_tier(8, slow)
    put(tier, *range(1, 9))
    assert slow.entered.wait(10)
    tier.prefetch([name(0)])
    slow.gate.set()
    tier.wait_until_idle()
    assert slow.calls[:3] == [("put", name(1)), ("get", name(0)), ("put", name(2))]


@pytest.mark.parametrize("call", ["discard", "clear"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_page_forgotten_while_it_is_on_its_way_does_not_come_back(make_tier, slow, call, way):
    tier = make_tier(1, slow)
    if way == "up":
        write_all(slow, 1)
        tier.prefetch([name(1)])
    else:
        put(tier, 1)
    assert slow.entered.wait(10)
    forget = Thread(target=tier.clear if call == "clear" else lambda: tier.discard(name(1)))
    forget.start()
    forget.join(0.1)  # time for a call that does not wait its turn to go wrong
    slow.gate.set()
    forget.join(10)
    tier.wait_until_idle()
    assert (tier.match([name(1)]), tier.get(name(1)), list(slow._folder.iterdir())) == (0, None, [])


def test_a_page_that_is_gone_when_its_turn_comes_is_not_written(make_tier, below):
    tier = make_tier(1, below)
    chosen, gate, spill = Event(), Event(), tier._spill

    def late_spill(*arguments):
        chosen.set()
        assert gate.wait(10)
        spill(*arguments)

    tier._spill = late_spill
    put(tier, 1)
    assert chosen.wait(10)
    put(tier, 2)
    gate.set()
    tier.wait_until_idle()
    assert (tier.match([name(1)]), tier.match([name(2)])) == (0, 1)
    assert tier.statistics()["dropped"] == 1


def test_discard_and_clear_forget_both_tiers(make_tier, below):
    tier = make_tier(2, below)
    for number in range(4):
        put(tier, number)
        tier.wait_until_idle()
    tier.discard(name(0))
    tier.discard(name(3))
    tier.discard(name(9))
    assert held(tier, range(4)) == [1, 2]
    tier.clear()
    assert (held(tier, range(4)), tier.statistics()["bytes"], below.statistics()["pages"]) == ([], 0, 0)


def test_a_page_damaged_in_memory_is_never_used_and_forgotten_everywhere(make_tier, below):
    tier = make_tier(1, below)
    page = make_page(1)
    same_memory = page.view(np.uint8)
    tier.put(name(1), page)
    tier.wait_until_idle()
    assert path_of(below, 1).exists()
    same_memory[1, 1, 1] ^= 4
    assert tier.get(name(1)) is None
    assert (tier.match([name(1)]), path_of(below, 1).exists(), tier.statistics()["damaged"]) == (0, False, 1)
    put(tier, 1)
    assert is_page(tier.get(name(1)), 1)


def test_a_page_damaged_in_memory_after_it_came_up_is_never_used(make_tier, below):
    write(below, 1)
    tier = make_tier(1, below)
    np.frombuffer(tier.get(name(1)).base, np.uint8)[5] ^= 4
    assert tier.get(name(1)) is None
    assert tier.statistics()["damaged"] == 1


def test_damage_before_the_copy_below_is_found_when_it_comes_up(make_tier, below):
    tier = make_tier(4, below)
    page = make_page(1)
    same_memory = page.view(np.uint8)
    tier.put(name(1), page)
    tier.wait_until_idle()
    same_memory[1, 1, 1] ^= 4
    for number in (2, 3, 4, 5):
        put(tier, number)
        tier.wait_until_idle()
    assert tier.match([name(1)]) == 1
    assert tier.get(name(1)) is None
    assert tier.statistics()["below"]["damaged"] == 1
    assert is_page(tier.get(name(2)), 2)


def test_a_page_damaged_in_its_file_is_never_used(make_tier, below):
    write(below, 1)
    path = path_of(below, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    tier = make_tier(4, below)
    tier.prefetch([name(1)])
    tier.wait_until_idle()
    assert (tier.match([name(1)]), tier.get(name(1)), path.exists()) == (0, None, False)


def test_a_full_disk_costs_pages_not_the_engine_and_is_said_once(make_tier, below, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_tier, "_mark_used", full)
    tier = make_tier(2, below)
    with caplog.at_level(logging.WARNING, "mindspore_paged"):
        for number in range(6):
            put(tier, number)
            tier.wait_until_idle()
    assert held(tier, range(6)) == [4, 5]
    counts = tier.statistics()
    assert counts["errors"] == counts["dropped"] == 5, "page 5 is not cold yet"
    assert "No space left" in counts["last_error"]
    assert len(caplog.records) == 1
    assert is_page(tier.get(name(4)), 4)
    tier.wait_until_idle()
    monkeypatch.undo()
    put(tier, 6, 7)
    tier.wait_until_idle()
    assert tier.statistics()["spilled"] == 1, "6 is copied: the disk is used again as soon as it can be"


def test_a_file_that_cannot_be_read_is_a_miss(make_tier, below, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    write(below, 1)
    tier = make_tier(2, below)
    monkeypatch.setattr(file_tier, "read_bounded", forbidden)
    assert tier.get(name(1)) is None
    assert (tier.match([name(1)]), tier.statistics()["errors"]) == (0, 1)


def test_a_page_from_below_that_is_too_large_to_hold_is_still_given(make_tier, below):
    write(below, 1)
    tier = make_tier(0.5, below)
    assert is_page(tier.get(name(1)), 1)
    assert tier.statistics()["pages"] == 0


def test_close_while_the_worker_is_busy_finishes_the_page_in_its_hands(make_tier, slow):
    tier = make_tier(2, slow)
    put(tier, 1, 2, 3, 4)
    assert slow.entered.wait(10)
    closer = Thread(target=tier.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive(), "the worker still writes"
    slow.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert [path.suffix for path in slow._folder.iterdir()] == [".safetensors"]


def test_a_closed_tier_holds_nothing_and_takes_nothing(make_tier, below):
    write(below, 1)
    with make_tier(2, below) as tier:
        put(tier, 2)
        tier.prefetch([name(1)])
    tier.close()
    put(tier, 3)
    tier.prefetch([name(1)])
    assert [tier.get(name(number)) for number in (1, 2, 3)] == [None] * 3
    assert held(tier, (1, 2, 3)) == []
    assert below.contains(name(1))


def test_a_bug_on_the_worker_is_logged_and_breaks_integrity_but_not_the_engine(monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(host_tier, "page_checksum", broken)
    with HostTier(ROOMY) as tier:
        put(tier, 1)
        tier.wait_until_idle()
        put(tier, 2)
        assert is_page(tier.get(name(1)), 1)
        with pytest.raises(IntegrityError, match="worker of the host tier has failed"):
            tier.check_integrity()
    assert "worker of the host tier has failed" in caplog.text


def test_misuse_is_refused(make_tier):
    with pytest.raises(ConfigError, match="capacity of 0 bytes; it must be at least 1"):
        make_tier(0)
    with pytest.raises(InvalidBlockError, match="page of block 61 is not contiguous"):
        make_tier(1).put(b"a", np.zeros((4, 4))[:, ::2])


def write_all(slow, *numbers):
    slow.gate.set()
    for number in numbers:
        write(slow, number)
    slow.gate.clear()
    slow.entered.clear()
    slow.calls.clear()
