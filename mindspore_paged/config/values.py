"""How values of several sections are read: paths and sizes; and what all sections have in common."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, ConfigDict, TypeAdapter, ValidationError

DEMO_WEIGHTS = "demo"
RANDOM_WEIGHTS = "random"
"""In place of a path to a model."""

WeightDtype = Literal["auto", "float32", "float16", "bfloat16", "w16a16", "int8", "int4", "stored"]
"""How matrices are held."""

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
