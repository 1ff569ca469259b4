"""Reading a whole file that somebody else may have put there: a regular one, and no more of it than is wanted."""

import errno
import os
import stat
from pathlib import Path

_NO_FILES = {errno.EISDIR: "Is a directory", errno.ELOOP: "a symbolic link", errno.ENXIO: "not a regular file"}
"""What open() says of things that are no files, of a link that it may not follow, and of a socket."""


class UnfitFileError(OSError):
    """What stands at a path is no regular file, or is larger than anything that could be wanted of it."""


def read_bounded(path: str | Path, most_bytes: int, follow_links: bool = True) -> bytes:
    """The content of a regular file of at most `most_bytes`.

    A pipe or a device is not waited for, and nothing is allocated for a file that is too large. follow_links: whether
    `path` itself may be a symbolic link. Raises UnfitFileError, and OSError where the file cannot be opened or read.
    """
    flags = os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        with open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnfitFileError(errno.EINVAL, "not a regular file", str(path))
            size = status.st_size
            if size <= most_bytes:
                content = file.read(most_bytes + 1)  # it may have grown meanwhile
                size = len(content)
    except OSError as error:
        if error.errno in _NO_FILES:
            raise UnfitFileError(error.errno, _NO_FILES[error.errno], str(path)) from None
        raise
    if size > most_bytes:
        raise UnfitFileError(errno.EFBIG, f"{size} bytes; at most {most_bytes} can be right", str(path))
    return content
