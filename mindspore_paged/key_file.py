"""A secret key in a file of its own, and what it seals."""

import os
import stat
from pathlib import Path

from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.errors import ConfigError

LEAST_BYTES, MOST_BYTES = 32, 4096


def read_key(path: Path, origin: str) -> bytes:
    """The key in the file at `path`: its bytes as they are.

    Raises ConfigError, which begins with `origin` (a configuration's key, a flag), where it cannot be read, is too
    short to be a secret, or could be read or changed by others than this user.
    """
    try:
        status = os.stat(path)
        key = read_bounded(path, MOST_BYTES)
    except (OSError, ValueError) as error:  # a ValueError is of a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{origin} is {path}: cannot read the key: {reason}") from None
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{origin} is {path}: a key must be its user's alone (owner {status.st_uid}, mode {mode:04o}); "
            "chown it, chmod 600"
        )
    if len(key) < LEAST_BYTES:
        raise ConfigError(
            f"{origin} is {path}: a key of {len(key)} bytes; at least {LEAST_BYTES} are needed, as "
            "`head -c 32 /dev/urandom` writes"
        )
    return key
