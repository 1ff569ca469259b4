"""Files that are written whole or not at all, and errors of a disk that name the file."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED_SUFFIX = ".partial"
_DEVICES = (Path("/dev"), Path("/proc"))
_unfinished: set[Path] = set()


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` when the block ends well, and is gone when it does not.

    Nobody sees half a file, and what was there before stays until then. A device or a pipe is written to directly.
    Raises OSError that names `path`, also where the block's own does not.
    """
    path = Path(path)
    with naming(path), _unfinished_beside(Path(os.path.realpath(path))) as unfinished:
        if _is_device(path):
            yield path
            return
        yield unfinished
        unfinished.replace(os.path.realpath(path))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path`, empty or not there, like `whole_file` does."""
    with naming(path), _unfinished_beside(path) as unfinished:
        _remove(unfinished)  # of a run that was killed
        unfinished.mkdir(parents=True)
        yield unfinished
        if path.exists():
            path.rmdir()
        unfinished.rename(path)


@contextmanager
def scratch_folder(prefix: str = "mindspore_paged-", beside: Path | None = None) -> Iterator[Path]:
    """A folder for what is needed within the block only, among the system's temporary ones or beside a file."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=beside and beside.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _unfinished.add(folder)
        try:
            yield folder
        finally:
            _unfinished.discard(folder)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; raises OSError that names the file."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all; raises OSError that names it."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Make every OSError of the block that names no file name this one: a failed write does not say where it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if str(error.filename).endswith(UNFINISHED_SUFFIX):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_unfinished() -> None:
    """Remove what is being written just now: for a process that ends in the midst of it."""
    for path in list(_unfinished):
        with suppress(OSError):
            _remove(path)


@contextmanager
def _unfinished_beside(path: Path) -> Iterator[Path]:
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    _unfinished.add(unfinished)
    try:
        yield unfinished
    finally:
        _unfinished.discard(unfinished)
        with suppress(OSError):
            _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    absolute = Path(os.path.abspath(path))
    return (path.exists() and not path.is_file()) or any(folder in absolute.parents for folder in _DEVICES)
