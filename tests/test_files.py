"""Files written whole or not at all: on disks that are full, forbidden, or no disks, and at any interruption."""

import errno
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from mindspore_paged import files
from mindspore_paged.benchmarking.report import write_results
from mindspore_paged.cache.event_log import PoolEventLog
from mindspore_paged.files import naming, remove_unfinished, whole_file, whole_folder, write_bytes, write_text
from mindspore_paged.weights.exported_checkpoint import write_weights


@contextmanager
def disk_of(num_bytes):
    """No file may grow beyond this: to a program that is what a full disk is, with another number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_there_whole_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "out.txt", "Größe 🙂\n")
    write_text(str(tmp_path / "out.txt"), "again")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "again"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")
    with disk_of(1000), pytest.raises(OSError, match="File too large") as caught:
        write_bytes(path, bytes(5000))
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_no_half_file(tmp_path):
    def write_and_stop():
        with whole_file(tmp_path / "out") as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_at_once_can_take_its_half_files_with_it(tmp_path):
    with whole_folder(tmp_path / "folder") as folder, whole_file(tmp_path / "out") as unfinished:
        (folder / "part").write_text("half")
        unfinished.write_text("half")
        remove_unfinished()
        assert list(tmp_path.iterdir()) == []
        folder.mkdir()
        unfinished.write_text("whole")


@pytest.mark.parametrize(("place", "number"), [("absent/out", errno.ENOENT), (".", errno.EISDIR)])
def test_a_place_that_cannot_be_written_to_is_named_as_it_was_given(tmp_path, place, number):
    path = tmp_path / place
    (path / "in it").touch() if path.is_dir() else None
    with pytest.raises(OSError, match=f"{place.split('/')[0]}") as caught:
        write_text(path, "x")
    assert caught.value.errno in (number, errno.EEXIST, errno.ENOTEMPTY)
    assert files.UNFINISHED_SUFFIX not in str(caught.value)


def test_a_device_is_written_to_and_stays_one(tmp_path):
    write_text("/dev/null", "x")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text("/dev/full", "x")
    link = tmp_path / "link"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_text(link, "x")
    assert link.is_symlink()


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_comes_whole_or_not_at_all(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        write_text(folder / "a", "x")
    assert (tmp_path / "out" / "a").read_text() == "x"

    def fill():
        with whole_folder(tmp_path / "other") as folder:
            write_text(folder / "a", "x")
            (folder / "b").write_bytes(bytes(5000))

    with disk_of(1000), pytest.raises(OSError, match="File too large") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_name_that_an_error_has_is_kept():
    with pytest.raises(FileNotFoundError, match="'/absent'"), naming("other"):
        open("/absent").close()


def test_exported_weights_name_the_file_that_the_disk_refuses(tmp_path):
    with disk_of(1000), pytest.raises(OSError, match="00000.safetensors"):
        write_weights(tmp_path / "weights", [("a", np.zeros(1000, np.float32))])
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_pool_record_names_the_file_that_the_disk_refuses_and_can_be_closed(tmp_path):
    record = PoolEventLog(tmp_path / "log", num_blocks=400, block_size=16)
    with disk_of((tmp_path / "log").stat().st_size + 20):
        with pytest.raises(OSError, match="File too large") as caught:
            record.record(1, np.arange(400, dtype=np.int32))
        record.close()
    assert caught.value.filename == str(tmp_path / "log")


def test_results_of_a_benchmark_leave_no_half_picture(tmp_path):
    with disk_of(3000), pytest.raises(OSError, match="stem.png"):
        write_results(tmp_path / "stem", {}, "table", lambda panels: panels[0].plot([1, 2]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stem.json", "stem.md"]
