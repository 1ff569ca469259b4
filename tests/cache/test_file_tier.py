import errno
import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindspore_paged.cache import file_tier
from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.page_format import decode_page, encode_page, page_checksum
from mindspore_paged.errors import ConfigError, DamagedPageError
from tests.cache.pages import DTYPES, flip_bit, is_page, make_page, name, path_of, write

ROOMY = 1 << 20


@pytest.fixture
def tier(tmp_path):
    return FileTier(tmp_path, ROOMY, "model")


@pytest.fixture
def file_bytes(tmp_path_factory):
    """Bytes of one page's file; those of other types differ by the length of the type's name at most."""
    tier = FileTier(tmp_path_factory.mktemp("measure"), ROOMY, "model")
    write(tier, 0)
    return tier.statistics()["bytes"]


def files(tier: FileTier) -> list[str]:
    return sorted(path.name for path in tier._folder.iterdir())


@pytest.mark.parametrize("number", range(len(DTYPES)))
def test_a_page_comes_back_to_the_last_bit(tier, number):
    assert write(tier, number)
    page, checksum = tier.get(name(number))
    assert is_page(page, number)
    assert checksum == page_checksum(name(number), make_page(number))


def test_bfloat16_of_another_library_is_written_by_its_bits(tier):
    class Foreign(np.ndarray):
        """Stands for an array whose bfloat16 is not that of ml_dtypes."""

    bits = np.arange(6, dtype=np.uint16)
    page = bits.view(make_page(3).dtype).view(Foreign)
    tier.put(b"a", page, page_checksum(b"a", page))
    assert tier.get(b"a")[0].view(np.uint16).tolist() == bits.tolist()


def test_no_bit_of_a_file_can_change_without_notice(tmp_path, tier):
    write(tier, 1)
    path = path_of(tier, 1)
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(flip_bit(good, place))
        again = FileTier(tmp_path, ROOMY, "model")
        assert again.get(name(1)) is None, f"a changed byte {place} went unnoticed"
        assert not again.contains(name(1))
        counts = again.statistics()
        assert counts["damaged"] + counts["foreign"] == 1
        assert path.exists() == (counts["foreign"] == 1), "what is ours and damaged is deleted, what is foreign stays"
        again.check_integrity()
    assert counts["damaged"] == 1, "the last byte is content: that file is ours"


def test_a_file_of_another_length_is_damaged(tmp_path, tier):
    write(tier, 1)
    path = path_of(tier, 1)
    good = path.read_bytes()
    for bad in [good[:length] for length in range(len(good))] + [good + b"\0"]:
        path.write_bytes(bad)
        again = FileTier(tmp_path, ROOMY, "model")
        assert again.get(name(1)) is None
        assert (again.statistics()["damaged"], path.exists()) == (1, False)


def test_a_page_of_another_shape_is_damaged():
    page = make_page(1)
    data = encode_page(page.reshape(3, 2, -1), page_checksum(name(1), page), "model")
    with pytest.raises(DamagedPageError, match="does not have the checksum"):
        decode_page(data, name(1), "model")


def test_a_file_under_another_name_is_damaged(tier):
    write(tier, 1)
    write(tier, 6)  # of the same type and shape
    path_of(tier, 1).replace(path_of(tier, 6))
    assert tier.get(name(6)) is None
    assert tier.statistics()["damaged"] == 1


def test_models_do_not_see_each_others_pages(tmp_path, tier):
    other = FileTier(tmp_path, ROOMY, "other model")
    write(tier, 1)
    assert not FileTier(tmp_path, ROOMY, "other model").contains(name(1))
    path_of(tier, 1).rename(path_of(other, 1))
    other = FileTier(tmp_path, ROOMY, "other model")
    assert other.get(name(1)) is None
    assert (other.statistics()["foreign"], path_of(other, 1).exists()) == (1, True)


def test_a_checksum_that_was_right_before_the_damage_is_not_renewed(tier):
    page = make_page(1)
    checksum = page_checksum(name(1), page)
    page.view(np.uint8)[0, 0, 0] ^= 1
    tier.put(name(1), page, checksum)
    assert tier.get(name(1)) is None


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path, file_bytes):
    capacity = 3 * (file_bytes + 8)
    tier = FileTier(tmp_path, capacity, "model")
    for number in (5, 2, 9):
        write(tier, number)
    tier.get(name(5))
    tier = FileTier(tmp_path, capacity, "model")
    write(tier, 4)
    assert [tier.contains(name(number)) for number in (5, 2, 9, 4)] == [True, False, True, True]
    write(tier, 9)  # known already: counts as used
    tier.get(name(5))
    write(tier, 6)
    assert [tier.contains(name(number)) for number in (5, 9, 4, 6)] == [True, True, False, True]
    tier.check_integrity()
    assert sum(path.stat().st_size for path in tier._folder.iterdir()) == tier.statistics()["bytes"] <= capacity


@pytest.mark.parametrize(("room", "kept"), [(2, [1, 3]), (1, [3])])
def test_the_order_of_use_is_that_of_one_clock(tmp_path, tier, file_bytes, room, kept, monkeypatch):
    """The file system's own times lag behind by a tick: mixed with ours they would turn the order round."""
    monkeypatch.setattr(file_tier, "time", SimpleNamespace(time_ns=count(1).__next__))
    write(tier, 1)
    write(tier, 2)
    tier.get(name(1))
    write(tier, 3)
    smaller = FileTier(tmp_path, room * (file_bytes + 8), "model")
    assert [number for number in (1, 2, 3) if smaller.contains(name(number))] == kept


def test_a_capacity_made_smaller_deletes_the_oldest(tmp_path, tier, file_bytes):
    for number in (3, 1, 2):
        write(tier, number)
    smaller = FileTier(tmp_path, 2 * (file_bytes + 8), "model")
    assert [smaller.contains(name(number)) for number in (3, 1, 2)] == [False, True, True]
    assert len(files(smaller)) == 2


def test_a_page_above_the_capacity_is_refused_and_nothing_makes_room_for_it(tmp_path, file_bytes):
    tier = FileTier(tmp_path, file_bytes + 8, "model")
    write(tier, 1)
    assert not tier.put(b"large", np.zeros(1000), page_checksum(b"large", np.zeros(1000)))
    assert tier.contains(name(1))
    assert tier.statistics()["dropped"] == 1


def test_what_is_not_ours_is_left_alone_and_unfinished_files_are_removed(tmp_path, tier):
    write(tier, 1)
    for stranger in ("notes.txt", "ABCD.safetensors", "abc.safetensors", ".safetensors", "model.safetensors"):
        (tier._folder / stranger).write_text("mine")
    (tier._folder / f"{name(2).hex()}.tmp").write_bytes(b"half")
    again = FileTier(tmp_path, ROOMY, "model")
    assert again.statistics()["pages"] == 1
    assert "notes.txt" in files(again)
    again.clear()
    assert files(again) == [".safetensors", "ABCD.safetensors", "abc.safetensors", "model.safetensors", "notes.txt"]


def test_a_discarded_page_is_gone_from_the_disk(tier):
    write(tier, 1)
    tier.discard(name(1))
    tier.discard(name(1))
    assert (tier.get(name(1)), files(tier), tier.statistics()["bytes"]) == (None, [], 0)


def test_a_full_disk_leaves_no_file_and_no_entry(tier, monkeypatch):
    def write_half(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space left"):
            write(tier, 1)
    assert (files(tier), tier.contains(name(1))) == ([], False)
    tier.check_integrity()
    assert write(tier, 1)


def test_a_file_that_is_taken_away_or_cannot_be_read_is_forgotten(tier):
    write(tier, 1)
    path_of(tier, 1).unlink()
    with pytest.raises(FileNotFoundError):
        tier.get(name(1))
    assert not tier.contains(name(1))
    write(tier, 2)
    path_of(tier, 2).unlink()
    path_of(tier, 2).mkdir()
    with pytest.raises(IsADirectoryError):
        tier.get(name(2))
    assert tier.get(name(2)) is None
    tier.check_integrity()


def test_a_folder_that_cannot_be_written_still_serves_pages(tier, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EPERM, "read-only")

    write(tier, 1)
    monkeypatch.setattr(os, "utime", forbidden)
    assert is_page(tier.get(name(1))[0], 1)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file tier cannot use folder .*/file: .*Not a directory"):
        FileTier(tmp_path / "file", ROOMY, "model")
    with pytest.raises(ConfigError, match="capacity of 0 bytes; it must be at least 1"):
        FileTier(tmp_path, 0, "model")
