"""Keys: bytes of a file that is its user's alone, or one line that says what to mend."""

import os

import pytest

from mindspore_paged.errors import ConfigError
from mindspore_paged.key_file import MOST_BYTES, read_key


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"k" * 31 + b"\n")
    path.chmod(0o600)
    return path


def assert_refused(path, message):
    with pytest.raises(ConfigError, match=f"^cache.page_key is {path}: {message}") as error:
        read_key(path, "cache.page_key")
    assert "\n" not in str(error.value)
    assert "kkk" not in str(error.value)


def test_a_key_is_the_bytes_of_its_file(key_file):
    assert read_key(key_file, "cache.page_key") == b"k" * 31 + b"\n"
    key_file.chmod(0o400)
    link = key_file.with_name("link")
    link.symlink_to(key_file)
    assert read_key(link, "cache.page_key") == b"k" * 31 + b"\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_key_that_others_can_read_or_change_is_none(key_file, mode):
    key_file.chmod(mode)
    assert_refused(
        key_file, rf"a key must be its user's alone \(owner {os.geteuid()}, mode {mode:04o}\); chown it, chmod 600$"
    )


def test_a_key_of_another_user_is_none(key_file, monkeypatch):
    if os.geteuid() == 0:
        os.chown(key_file, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert_refused(key_file, "a key must be its user's alone")


@pytest.mark.parametrize("size", [0, 31])
def test_a_short_key_is_none(key_file, size):
    key_file.write_bytes(b"k" * size)
    assert_refused(key_file, f"a key of {size} bytes; at least 32 are needed")


def test_what_is_no_key_file(key_file, tmp_path):
    key_file.write_bytes(b"k" * (MOST_BYTES + 1))
    assert_refused(key_file, "cannot read the key: 4097 bytes; at most 4096 can be right$")
    assert_refused(tmp_path / "absent", "cannot read the key: No such file or directory$")
    assert_refused(tmp_path, "cannot read the key: Is a directory$")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "cannot read the key: not a regular file$")
    assert_refused("a\0b", "cannot read the key: embedded null byte$")
