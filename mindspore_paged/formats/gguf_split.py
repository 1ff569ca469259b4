"""Models in several GGUF files, NAME-00001-of-00003.gguf and so on, opened as one from the first."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_header import GgufHeader, GgufTensor, read_header
from mindspore_paged.formats.gguf_metadata import GgufMetadata, GgufSection

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class _Part(GgufSection):
    """What a file says of its place; numbers count from 0 there, and from 1 in names."""

    number: Annotated[int, Field(ge=0)] = Field(0, alias="split.no")
    count: Annotated[int, Field(ge=0, lt=100_000)] = Field(1, alias="split.count")
    num_tensors: Annotated[int, Field(ge=0)] | None = Field(None, alias="split.tensors.count")

    @property
    def name(self) -> str:
        return f"part {self.number + 1} of {self.count}"


def tensors_of_all_parts(path: Path, header: GgufHeader) -> dict[str, GgufTensor]:
    """The tensors of the model whose first, or only, file is at `path` and begins with `header`.

    Raises CheckpointError for a file that is not the first, and for parts that are missing or do not belong together.
    """
    part = GgufMetadata(path, header.metadata).section(_Part)
    if part.count <= 1:
        return header.tensors
    match = _NAME.fullmatch(path.name)
    names = [f"{match[1]}-{number:05}-of-{part.count:05}.gguf" for number in range(1, part.count + 1)] if match else []
    if path.name not in names or names.index(path.name) != part.number:
        raise CheckpointError(
            f"{path}: says it is {part.name} of a model, but its name does not end in "
            f"-{part.number + 1:05}-of-{part.count:05}.gguf, by which the others are found"
        )
    if part.number:
        raise CheckpointError(f"{path}: is {part.name} of a model; open the first, {names[0]}")
    tensors = dict(header.tensors)
    for number, name in enumerate(names[1:], start=1):
        tensors |= _read_part(path.with_name(name), number, part.count, tensors)
    if part.num_tensors not in (None, len(tensors)):
        raise CheckpointError(
            f"{path}: split.tensors.count is {part.num_tensors}, but the {part.count} parts hold {len(tensors)} tensors"
        )
    return tensors


def _read_part(path: Path, number: int, count: int, before: dict[str, GgufTensor]) -> dict[str, GgufTensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: this part of the model is missing; it has {count}")
    header = read_header(path)
    part = GgufMetadata(path, header.metadata).section(_Part)
    if (part.number, part.count) != (number, count):
        raise CheckpointError(f"{path}: says it is {part.name}, and not {number + 1} of {count} as its name does")
    twice = before.keys() & header.tensors.keys()
    if twice:
        raise CheckpointError(f"{path}: tensor {min(twice)} is in a part before it too")
    return header.tensors
