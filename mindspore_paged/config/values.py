"""How values of several sections are read: paths and sizes; and what all sections have in common."""

from pathlib import Path
from typing import Any

from pydantic import ByteSize, ConfigDict, TypeAdapter, ValidationError

SECTION = ConfigDict(extra="forbid", validate_default=True)


def path(value: Any) -> Path:
    """A path of the user's, `~` resolved; raises ValueError with what is allowed."""
    if isinstance(value, str) and value:
        value = Path(value)
    if not isinstance(value, Path) or "\0" in str(value):
        raise ValueError("a path")
    try:
        return value.expanduser()
    except RuntimeError as error:
        raise ValueError(f"a path whose home folder exists ({error})") from None


def byte_size(value: Any) -> ByteSize:
    """A number of bytes, or a text such as 512MiB; raises ValueError with what is allowed."""
    try:
        if not isinstance(value, bool):
            return TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        pass
    raise ValueError("a size such as 512MiB, or a whole number of bytes")
