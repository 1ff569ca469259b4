import errno
import os
from dataclasses import replace
from hashlib import sha256
from io import FileIO
from itertools import count
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from mindspore_paged.cache import file_tier
from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.page_format import PageFormat, page_checksum
from mindspore_paged.errors import ConfigError, DamagedPageError
from tests.cache.hostile import INVENTED_DTYPES, forged_like
from tests.cache.pages import DTYPES, flip_bit, format_of, is_page, make_page, name, path_of, write

ROOMY = 1 << 20
KEY = b"k" * 32


@pytest.fixture
def tier(tmp_path):
    return FileTier(tmp_path, ROOMY, format_of())


@pytest.fixture
def file_bytes(tmp_path_factory):
    """Bytes of one page's file; those of other types differ by the length of the type's name at most."""
    tier = FileTier(tmp_path_factory.mktemp("measure"), ROOMY, format_of())
    write(tier, 0)
    return tier.statistics()["bytes"]


def files(tier: FileTier) -> list[str]:
    return sorted(path.name for path in tier._folder.iterdir())


@pytest.mark.parametrize("key", [None, b"k" * 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_page_comes_back_to_the_last_bit(tmp_path, dtype, key):
    true = make_page(1, dtype)
    tier = FileTier(tmp_path, ROOMY, format_of(dtype=dtype, key=key))
    assert tier.put(name(1), true, page_checksum(name(1), true))
    page, checksum = tier.get(name(1))
    assert (page.dtype, page.shape, page.tobytes()) == (true.dtype, true.shape, true.tobytes())
    assert not page.flags.writeable
    assert checksum == page_checksum(name(1), true)


def test_bfloat16_of_another_library_is_written_by_its_bits(tmp_path):
    class Foreign(np.ndarray):
        """Stands for an array whose bfloat16 is not that of ml_dtypes."""

    bits = np.arange(6, dtype=np.uint16)
    page = bits.view(ml_dtypes.bfloat16).view(Foreign)
    tier = FileTier(tmp_path, ROOMY, PageFormat.of(page, "model"))
    tier.put(b"a", page, page_checksum(b"a", page))
    assert tier.get(b"a")[0].view(np.uint16).tolist() == bits.tolist()


def test_no_bit_of_a_file_can_change_without_notice(tmp_path, tier):
    write(tier, 1)
    path = path_of(tier, 1)
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(flip_bit(good, place))
        again = FileTier(tmp_path, ROOMY, format_of())
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
        again = FileTier(tmp_path, ROOMY, format_of())
        assert again.get(name(1)) is None
        assert (again.statistics()["damaged"], path.exists()) == (1, False)


def test_a_page_of_another_shape_is_damaged():
    page = make_page(1).reshape(3, 2, -1)
    data = replace(format_of(), shape=page.shape).encode(name(1), page, page_checksum(name(1), page))
    with pytest.raises(
        DamagedPageError, match=r"stored as F32 \(3, 2, 4\); the pages of this pool are float32 \(2, 3, 4\)"
    ):
        format_of().decode(name(1), data)


def test_a_file_under_another_name_is_damaged(tier):
    write(tier, 1)
    write(tier, 6)  # of the same type and shape
    path_of(tier, 1).replace(path_of(tier, 6))
    assert tier.get(name(6)) is None
    assert tier.statistics()["damaged"] == 1


def test_models_do_not_see_each_others_pages(tmp_path, tier):
    other = FileTier(tmp_path, ROOMY, format_of("other model"))
    write(tier, 1)
    assert not FileTier(tmp_path, ROOMY, format_of("other model")).contains(name(1))
    path_of(tier, 1).rename(path_of(other, 1))
    other = FileTier(tmp_path, ROOMY, format_of("other model"))
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
    tier = FileTier(tmp_path, capacity, format_of())
    for number in (5, 2, 9):
        write(tier, number)
    tier.get(name(5))
    tier = FileTier(tmp_path, capacity, format_of())
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
    smaller = FileTier(tmp_path, room * (file_bytes + 8), format_of())
    assert [number for number in (1, 2, 3) if smaller.contains(name(number))] == kept


def test_a_capacity_made_smaller_deletes_the_oldest(tmp_path, tier, file_bytes):
    for number in (3, 1, 2):
        write(tier, number)
    smaller = FileTier(tmp_path, 2 * (file_bytes + 8), format_of())
    assert [smaller.contains(name(number)) for number in (3, 1, 2)] == [False, True, True]
    assert len(files(smaller)) == 2


def test_a_page_above_the_capacity_is_refused(tmp_path, file_bytes):
    tier = FileTier(tmp_path, file_bytes - 8, format_of())
    assert not write(tier, 1)
    assert (tier.statistics()["dropped"], files(tier)) == (1, [])


def test_what_is_not_ours_is_left_alone_and_unfinished_files_are_removed(tmp_path, tier):
    write(tier, 1)
    for stranger in ("notes.txt", "ABCD.safetensors", "abc.safetensors", ".safetensors", "model.safetensors"):
        (tier._folder / stranger).write_text("mine")
    (tier._folder / f"{name(2).hex()}.tmp").write_bytes(b"half")
    again = FileTier(tmp_path, ROOMY, format_of())
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
    class HalfFile(FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(file_tier, "open", HalfFile, raising=False)
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
    assert tier.get(name(2)) is None
    assert tier.statistics()["foreign"] == 1
    tier.check_integrity()


def test_a_folder_that_cannot_be_written_still_serves_pages(tier, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EPERM, "read-only")

    write(tier, 1)
    monkeypatch.setattr(os, "utime", forbidden)
    assert is_page(tier.get(name(1))[0], 1)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file tier cannot use folder .*/file: .*File exists"):
        FileTier(tmp_path / "file", ROOMY, format_of())
    with pytest.raises(ConfigError, match="capacity of 0 bytes; it must be at least 1"):
        FileTier(tmp_path, 0, format_of())


# Files and folders of others


@pytest.mark.parametrize("dtype", INVENTED_DTYPES)
def test_a_forged_page_is_a_miss(tmp_path, tier, dtype):
    write(tier, 1)
    model = sha256(b"model").hexdigest()
    path_of(tier, 1).write_bytes(forged_like(make_page(1), name(1), model, dtype))
    assert tier.get(name(1)) is None
    assert (tier.statistics()["damaged"], tier.contains(name(1))) == (1, False)


def put_link(path, tmp_path):
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")


def put_pipe(path, _):
    path.unlink()
    os.mkfifo(path)


def put_huge(path, _):
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse one, which no memory holds


@pytest.mark.parametrize("put", [put_link, put_pipe, put_huge])
def test_what_is_no_file_of_a_pages_size_is_a_miss_and_is_left_alone(tmp_path, tier, put):
    write(tier, 1)
    write(tier, 2)
    put(path_of(tier, 1), tmp_path)
    assert tier.get(name(1)) is None
    assert (tier.statistics()["foreign"], tier.contains(name(1)), os.path.lexists(path_of(tier, 1))) == (1, False, True)
    again = FileTier(tmp_path, ROOMY, format_of())
    assert (again.contains(name(1)), again.contains(name(2))) == (False, True), "nor does it take room"
    assert write(again, 1)
    assert is_page(again.get(name(1))[0], 1)
    assert (tmp_path / "elsewhere").exists() == (put is put_link)


def test_a_link_in_the_way_is_not_written_through(tmp_path, tier):
    mine = tmp_path / "mine"
    mine.write_text("keep")
    path_of(tier, 1).with_suffix(".tmp").symlink_to(mine)
    path_of(tier, 2).symlink_to(mine)
    write(tier, 1)
    write(tier, 2)
    assert (mine.read_text(), is_page(tier.get(name(2))[0], 2)) == ("keep", True)


def test_files_and_folders_are_made_for_this_user_alone(tmp_path):
    before = os.umask(0)
    try:
        tier = FileTier(tmp_path / "a" / "b", ROOMY, format_of())
        write(tier, 1)
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tier._folder, path_of(tier, 1)]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700, 0o700, 0o700, 0o600]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
@pytest.mark.parametrize("inner", [False, True])
def test_a_folder_that_others_can_write_to_is_refused_without_a_key(tmp_path, tier, mode, inner):
    folder = tier._folder if inner else tmp_path
    folder.chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"cache.page_files: others can write to {folder} .*mode {mode:04o}.*cache.page_key$"
    ):
        FileTier(tmp_path, ROOMY, format_of())
    FileTier(tmp_path, ROOMY, format_of(key=KEY))
    folder.chmod(0o755)
    FileTier(tmp_path, ROOMY, format_of())


def test_a_folder_of_another_user_is_refused_without_a_key(tmp_path, tier, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"cache.page_files: others can write to .*chown, chmod 700"):
        FileTier(tmp_path, ROOMY, format_of())
    FileTier(tmp_path, ROOMY, format_of(key=KEY))


def test_a_folder_of_pages_that_leads_elsewhere_is_refused(tmp_path, tier):
    tier._folder.rename(tmp_path / "elsewhere")
    tier._folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        FileTier(tmp_path, ROOMY, format_of(key=KEY))


def test_with_a_key_only_sealed_pages_are_read(tmp_path, tier):
    write(tier, 1)
    sealed = FileTier(tmp_path, ROOMY, format_of(key=KEY))
    assert sealed.get(name(1)) is None
    assert (sealed.statistics()["foreign"], path_of(sealed, 1).exists()) == (1, True)
    assert write(sealed, 1)
    assert is_page(sealed.get(name(1))[0], 1)
    other = FileTier(tmp_path, ROOMY, format_of(key=b"l" * 32))
    assert other.get(name(1)) is None
    assert (other.statistics()["foreign"], path_of(other, 1).exists()) == (1, True)
    assert is_page(FileTier(tmp_path, ROOMY, format_of(key=KEY)).get(name(1))[0], 1)
