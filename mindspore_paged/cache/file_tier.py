"""Third tier of the pager: pages of full blocks in files, by the name of the block; they survive a restart."""

import os
import re
import stat
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from mindspore_paged.bounded_file import UnfitFileError, read_bounded
from mindspore_paged.cache.page_format import PageFormat
from mindspore_paged.errors import ConfigError, DamagedPageError, ForeignPageError, IntegrityError

_SUFFIX = ".safetensors"
_UNFINISHED_SUFFIX = ".tmp"
_HASH = re.compile("(?:[0-9a-f]{2})+")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class FileTier:
    """Pages within `capacity_bytes` of files, the least recently used deleted first.

    A model's pages have a folder of their own in `folder`, because block names speak of tokens only::

        folder/<digest of model_fingerprint>/<block hash>.safetensors

    `put`, `get`, `discard` and `clear` mutate and do I/O: one thread at a time. `contains` and `statistics` only look
    at memory and may be called from another thread meanwhile. Made for one process at a time; a second one on the
    same folder cannot make it return a wrong page, only lose some.
    """

    def __init__(self, folder: str | Path, capacity_bytes: int, page_format: PageFormat):
        """Find the pages of an earlier run; raises ConfigError for a folder that cannot be used, or no capacity.

        page_format: what a page must be. Without a key in it whoever writes here is believed, so the folder must be
        this user's and nobody else may write to it; one that is not there yet is made so.
        """
        if capacity_bytes < 1:
            raise ConfigError(f"the file tier has a capacity of {capacity_bytes} bytes; it must be at least 1")
        self.capacity_bytes = capacity_bytes
        fingerprint = sha256(page_format.model_fingerprint.encode()).hexdigest()
        self._format = replace(page_format, model_fingerprint=fingerprint)
        self._folder = Path(folder) / fingerprint[:16]
        self._sizes: OrderedDict[bytes, int] = OrderedDict()  # bytes of each file; least recently used first
        self._bytes = 0
        self._counts = dict.fromkeys(("hits", "misses", "damaged", "foreign", "evicted", "dropped"), 0)
        try:
            _make_folder(self._folder, is_trusted=page_format.key is None)
            self._find_pages()
            self._make_room(0)
        except OSError as error:
            raise ConfigError(f"the file tier cannot use folder {folder}: {error}") from error

    def contains(self, block_hash: bytes) -> bool:
        """Whether get() is worth a try; whether the file is whole only get() finds out."""
        return block_hash in self._sizes

    def put(self, block_hash: bytes, page: np.ndarray, checksum: str) -> bool:
        """Write a contiguous page of the tier's format; False if it is larger than the capacity.

        checksum: what page_checksum() gave when the page was known to be good. A name that is there already keeps its
        content. Raises OSError when the file cannot be written; there is none then.
        """
        if block_hash in self._sizes:
            self._sizes.move_to_end(block_hash)
            return True
        data = self._format.encode(block_hash, page, checksum)
        if len(data) > self.capacity_bytes:
            self._counts["dropped"] += 1
            return False
        self._make_room(len(data))
        self._write(self._path(block_hash), data)
        self._sizes[block_hash] = len(data)
        self._bytes += len(data)
        return True

    def get(self, block_hash: bytes) -> tuple[np.ndarray, str] | None:
        """The page, read-only, and its checksum; None if it is not there, damaged (then deleted) or not ours.

        Not ours are pages of another model, or that the key did not seal, and whatever is no file of a page's size.

        Raises OSError when the file cannot be read; the page is forgotten then.
        """
        found = self._read(block_hash) if block_hash in self._sizes else None
        self._counts["misses" if found is None else "hits"] += 1
        return found

    def discard(self, block_hash: bytes) -> None:
        """Forget the page and delete its file, if it is there; raises OSError when that is not allowed."""
        if block_hash in self._sizes:
            self._forget(block_hash)
            self._path(block_hash).unlink(missing_ok=True)

    def clear(self) -> None:
        """Discard every page; raises OSError like discard()."""
        for block_hash in list(self._sizes):
            self.discard(block_hash)

    def statistics(self) -> dict[str, int]:
        """What is held now, and counts since the start: `dropped` was too large, `evicted` had to make room."""
        return {"pages": len(self._sizes), "bytes": self._bytes, "capacity_bytes": self.capacity_bytes, **self._counts}

    def check_integrity(self) -> None:
        """Raise IntegrityError unless the sizes add up and are within the capacity."""
        if sum(self._sizes.values()) != self._bytes:
            raise IntegrityError(f"files of the file tier hold {sum(self._sizes.values())} bytes, not {self._bytes}")
        if self._bytes > self.capacity_bytes:
            raise IntegrityError(f"the file tier holds {self._bytes} bytes of at most {self.capacity_bytes}")

    def _find_pages(self) -> None:
        """Fill the index from the folder by names and sizes alone; content is checked when it is read."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if not _HASH.fullmatch(stem) or not entry.is_file(follow_symlinks=False):
                    continue
                if suffix == _UNFINISHED_SUFFIX:
                    Path(entry.path).unlink(missing_ok=True)  # of a run that was killed while it wrote
                elif suffix == _SUFFIX:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_size <= self._format.most_bytes:
                        found.append((status.st_mtime_ns, bytes.fromhex(stem), status.st_size))
        self._sizes.update((block_hash, size) for _, block_hash, size in sorted(found))
        self._bytes = sum(self._sizes.values())

    def _make_room(self, num_bytes: int) -> None:
        while self._bytes + num_bytes > self.capacity_bytes:
            oldest = next(iter(self._sizes))
            self._path(oldest).unlink(missing_ok=True)  # first: a file that stays must stay counted
            self._forget(oldest)
            self._counts["evicted"] += 1

    def _write(self, path: Path, data: bytes) -> None:
        """Write the file or leave none. Without fsync: what a power cut spoils, the checksum finds."""
        unfinished = path.with_suffix(_UNFINISHED_SUFFIX)
        unfinished.unlink(missing_ok=True)  # of another run, or a link that leads elsewhere
        try:
            with open(os.open(unfinished, _NEW_FILE, 0o600), "wb") as file:
                file.write(data)
            _mark_used(unfinished)
            unfinished.replace(path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk does not say where
        finally:
            unfinished.unlink(missing_ok=True)

    def _read(self, block_hash: bytes) -> tuple[np.ndarray, str] | None:
        path = self._path(block_hash)
        try:
            data = read_bounded(path, self._format.most_bytes, follow_links=False)
            found = self._format.decode(block_hash, data)
        except (ForeignPageError, UnfitFileError):
            self._counts["foreign"] += 1
            self._forget(block_hash)
            return None
        except OSError:
            self._forget(block_hash)
            raise
        except DamagedPageError:
            self._counts["damaged"] += 1
            self.discard(block_hash)
            return None
        self._sizes.move_to_end(block_hash)
        with suppress(OSError):  # a folder that is read-only still serves pages, in the order that it had
            _mark_used(path)
        return found

    def _forget(self, block_hash: bytes) -> None:
        self._bytes -= self._sizes.pop(block_hash)

    def _path(self, block_hash: bytes) -> Path:
        return self._folder / (block_hash.hex() + _SUFFIX)


def _mark_used(path: Path) -> None:
    """Keep the time of last use where the next run finds it, to the nanosecond, whatever the mount says of atime."""
    now = time.time_ns()
    os.utime(path, ns=(now, now), follow_symlinks=False)


def _make_folder(folder: Path, is_trusted: bool) -> None:
    """Make the folder of a model's pages in the one that was configured, with missing ones above, for this user alone.

    is_trusted: raise ConfigError if somebody else could put files or folders in either. Raises OSError.
    """
    for each in (*reversed(folder.parents), folder):
        each.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link; the folder of a model's pages must be one of its own")
    for each in (folder.parent, folder) if is_trusted else ():
        status = each.stat()
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid() or mode & _WRITABLE_BY_OTHERS:
            raise ConfigError(
                f"cache.page_files: others can write to {each} (owner {status.st_uid}, mode {mode:04o}), and pages in "
                "it would be believed; make it this user's alone (chown, chmod 700), or set cache.page_key"
            )
