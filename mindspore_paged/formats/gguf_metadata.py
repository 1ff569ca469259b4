"""Metadata of a GGUF file as plain Python values, and checked by pydantic models whose aliases are its keys."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mindspore_paged.errors import CheckpointError
from mindspore_paged.wording import shortened

LONGEST_ARRAY = 1 << 24
"""Entries of an array that is read; the largest vocabularies have a sixtieth of it."""


class GgufSection(BaseModel):
    """Some keys of the metadata, each the alias of a field; numbers are numbers, and texts are texts.

    In a key {arch} stands for the architecture that the file is of.
    """

    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


AnySection = TypeVar("AnySection", bound=GgufSection)


class GgufMetadata(Mapping[str, Any]):
    """The metadata of the file at `path`: each value is int, float, bool, str or a list of these.

    stored: the values as `GgufHeader.metadata` has them. Text is decoded when it is asked for: what nobody needs may
    hold any bytes. Asking for a value raises CheckpointError for text that is not UTF-8, for an array of arrays, and
    for one longer than any that is needed.
    """

    def __init__(self, path: Path, stored: dict[str, Any]):
        self._path = path
        self._stored = stored

    def __getitem__(self, key: str) -> Any:
        value = self._stored[key]
        if isinstance(value, bytes):
            return self._decoded(key, value)
        if not isinstance(value, list | np.ndarray):
            return value
        if len(value) > LONGEST_ARRAY:
            raise CheckpointError(f"{self._path}: {key} has {len(value)} entries; at most {LONGEST_ARRAY} are read")
        if isinstance(value, np.ndarray):
            return value.tolist()
        try:
            return list(map(bytes.decode, value))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path}: {key} holds {shortened(error.object)}, which is not UTF-8") from None
        except TypeError:
            raise CheckpointError(f"{self._path}: {key} holds arrays, which that key cannot") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def length(self, key: str) -> int | None:
        """How many entries the array under `key` has; None where there is no array."""
        value = self._stored.get(key)
        return len(value) if isinstance(value, list | np.ndarray) else None

    def section(self, kind: type[AnySection], architecture: str = "") -> AnySection:
        """What stands under the keys of a section for an architecture; others are not looked at.

        Raises CheckpointError that names the key for one that is absent or has a value that it cannot have.
        """
        aliases = [field.alias for field in kind.model_fields.values()]
        keys = {alias: alias.replace("{arch}", architecture) for alias in aliases}
        try:
            return kind.model_validate({alias: self[key] for alias, key in keys.items() if key in self})
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
        alias, *places = problem["loc"]
        key = keys[alias]
        if problem["type"] == "missing":
            raise CheckpointError(f"{self._path}: the GGUF metadata lacks {key}")
        where = "".join(f"[{place}]" for place in places if isinstance(place, int))
        needed = problem["msg"].removeprefix("Input should be ")
        raise CheckpointError(f"{self._path}: {key}{where} is {shortened(problem['input'])}; it must be {needed}")

    def _decoded(self, key: str, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self._path}: {key} is {shortened(text)}, which is not UTF-8") from None
