"""The JSON files of a Hugging Face folder: read within bounds, and checked against what may stand in them."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.foreign_file import foreign_kind
from mindspore_paged.wording import shortened, shown

MOST_BYTES = 16 * 2**20
"""Of a JSON file that describes a model; the largest that are published have one or two million."""
_MOST = 2**31 - 1
NO_TOKEN = -1
"""What some files write where there is no token."""


def _whole(value: Any) -> Any:
    # Some writers know floats alone.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _token_ids(value: Any) -> Any:
    ids = value if isinstance(value, list) else [value]
    return tuple(token for token in map(_whole, ids) if token != NO_TOKEN)


Size = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=1, le=2**24)]
"""A dimension of a model: a whole number of at least 1, which may be written as 2048.0."""
Length = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=1, le=_MOST)]
"""A number of tokens."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
TokenId = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=NO_TOKEN, le=_MOST)]
"""A token id; -1 stands for none."""
TokenIds = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=0, le=_MOST)], ...],
    BeforeValidator(_token_ids),
    Field(max_length=1024),
]
"""One token id or a list of them; -1 stands for none."""


class HfModel(BaseModel):
    """What a JSON object may hold; a key that is not listed is ignored.

    meaning_nulls: keys whose null is a value; the others are absent where they are null.
    """

    meaning_nulls: ClassVar[tuple[str, ...]] = ()
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key in cls.meaning_nulls}


class _Ends(HfModel):
    eos_token_id: TokenIds = ()


AnyHfModel = TypeVar("AnyHfModel", bound=HfModel)


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of the file at `path`; raises CheckpointError where it is no file, or has more than `most` bytes."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: {'a folder instead of a file' if path.is_dir() else 'no such file'}")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise CheckpointError(f"{path}: has more than {most} bytes, the most that such a file may have")
    kind = foreign_kind(content)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}")
    return content


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text in the file at `path`; raises CheckpointError as `read_bytes` does, and for what is no UTF-8."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_json_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in the file at `path`, of at most `most` bytes; raises CheckpointError where there is none."""
    try:
        value = json.loads(read_text(path, most))
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: not readable as JSON (too deeply nested)") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__} instead of a JSON object")
    return value


def read_json_object_if_there(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`, empty where there is no such file."""
    return read_json_object(path) if path.exists() else {}


def checked(path: Path, kind: type[AnyHfModel], data: dict[str, Any]) -> AnyHfModel:
    """The object `data` of the file at `path` as a `kind`; raises CheckpointError that names the first bad key."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_explained(error)}") from None


_ALLOWED = {
    "missing": "there",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
}


def _explained(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False)
    # Where a key may be of two kinds each kind complains: who looked deepest knows most.
    problem = max((first, *(each for each in others if each["loc"][:1] == first["loc"][:1])), key=_depth)
    where = problem["loc"]
    key = shown(str(where[0])) if where else "it"
    # Numbers are locations in a list, and names of other forms pydantic's own.
    if inner := [part for part in where[1:] if part != "str" and re.fullmatch(r"[a-z][\w.-]*", str(part))]:
        key += f": {shown(inner[-1])}"
    value = None if problem["type"] == "missing" else problem["input"]
    allowed = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key} is {shortened(value)}; it must be {_ALLOWED.get(problem['type'], allowed)}"


def _depth(problem: Any) -> int:
    return len(problem["loc"])


def generation_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The end-of-sequence tokens that generation_config.json and config.json say: all of both, as vLLM takes them."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids += checked(path, _Ends, read_json_object_if_there(path)).eos_token_id
    return tuple(dict.fromkeys(ids))
