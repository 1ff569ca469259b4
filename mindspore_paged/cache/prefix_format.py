"""The pages of a prefix as bytes: a zip file of a manifest and a member for each page, all stored as they are."""

import io
import json
import zipfile
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.cache.page_format import PageFormat, is_finite, page_checksum
from mindspore_paged.errors import CheckpointError, DamagedPageError, ForeignPageError
from mindspore_paged.wording import one_line, shortened

_MANIFEST = "manifest.json"
_FORMAT = "mindspore_paged prefix"
_VERSION = 1
_BYTES_OF_A_TOKEN = 16  # its digits, a comma and a space
_MANIFEST_BYTES = 1024  # beside the tokens
_ZIP_BYTES_OF_A_MEMBER = 256  # its two headers
_DIRECTORY_BYTES_OF_A_MEMBER = 128
_END_BYTES = 2**16 + 128  # a zip file's last words and the longest comment, which zipfile looks for in any file
_DAMAGED = (
    *(zipfile.BadZipFile, EOFError, RuntimeError),  # of zipfile; a RuntimeError says encrypted, or too new
    *(KeyError, ValueError, OverflowError),  # of its headers
    *(DamagedPageError, ForeignPageError),
)


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    format: str
    version: int
    model_fingerprint: str
    block_size: int
    token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], FailFast()]


@dataclass(frozen=True)
class PrefixFormat:
    """What prefixes of one engine are as bytes: the format of their pages, their block size, the longest in tokens."""

    page_format: PageFormat
    block_size: int
    most_tokens: int

    @property
    def most_bytes(self) -> int:
        """What the bytes of any prefix can be at most."""
        of_pages = self._most_pages * (self.page_format.most_bytes + _ZIP_BYTES_OF_A_MEMBER)
        return of_pages + self._most_manifest_bytes + _ZIP_BYTES_OF_A_MEMBER + _END_BYTES

    def encode(self, token_ids: list[int], pages: list[np.ndarray]) -> bytes:
        """The pages of the full blocks of `token_ids`, each sealed with what the page format seals it with."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(_MANIFEST, json.dumps(self._described() | {"token_ids": token_ids}))
            for index, (name, page) in enumerate(zip(self._hashes(token_ids), pages, strict=True)):
                archive.writestr(_member(index), self.page_format.encode(name, page, page_checksum(name, page)))
        return buffer.getvalue()

    def decode(self, data: bytes, origin: str) -> tuple[list[int], list[bytes], list[np.ndarray]]:
        """The tokens, and the names and pages of their full blocks.

        Raises CheckpointError, one line that begins with `origin`, unless everything is as an engine like this one
        wrote it, and every page is made of finite numbers. Nothing is allocated by what the bytes say of themselves.
        """
        if len(data) > self.most_bytes:
            raise CheckpointError(
                f"{origin}: {len(data)} bytes; a prefix of this engine's longest sequence has at most {self.most_bytes}"
            )
        try:
            source = _BoundedReads(data, _END_BYTES + (1 + self._most_pages) * _DIRECTORY_BYTES_OF_A_MEMBER)
            with zipfile.ZipFile(source) as archive:
                source.most_bytes = None
                return self._read(archive, origin)
        except _DAMAGED as error:
            raise CheckpointError(f"{origin}: no prefix of this model, or damaged: {one_line(error)}") from None

    def _read(self, archive: zipfile.ZipFile, origin: str) -> tuple[list[int], list[bytes], list[np.ndarray]]:
        manifest = self._manifest(_read_member(archive, _MANIFEST, self._most_manifest_bytes), origin)
        hashes = self._hashes(manifest.token_ids)
        members = [_member(index) for index in range(len(hashes))]
        if sorted(archive.namelist()) != sorted([_MANIFEST, *members]):
            raise CheckpointError(
                f"{origin}: damaged: {len(archive.namelist())} members; its tokens need {_MANIFEST} and {len(hashes)} "
                "pages"
            )
        pages = []
        for member, name in zip(members, hashes, strict=True):
            page, _ = self.page_format.decode(name, _read_member(archive, member, self.page_format.most_bytes))
            if not is_finite(page):
                raise CheckpointError(f"{origin}: {member} holds a NaN or an infinity; such a page is not taken")
            pages.append(page)
        return manifest.token_ids, hashes, pages

    def _manifest(self, data: bytes, origin: str) -> _Manifest:
        try:
            manifest = _Manifest.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"][:2]))
            raise CheckpointError(
                f"{origin}: damaged: {_MANIFEST}{' ' if where else ''}{where}: {problem['msg']}"
            ) from None
        for key, value in self._described().items():
            found = getattr(manifest, key)
            if found != value:
                raise CheckpointError(f"{origin}: {key} is {shortened(found)}, this engine needs {value!r}")
        if len(manifest.token_ids) > self.most_tokens:
            raise CheckpointError(
                f"{origin}: {len(manifest.token_ids)} tokens; a sequence of this engine has at most {self.most_tokens}"
            )
        return manifest

    def _described(self) -> dict[str, str | int]:
        """The manifest, but for the tokens."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "model_fingerprint": self.page_format.model_fingerprint,
            "block_size": self.block_size,
        }

    @property
    def _most_pages(self) -> int:
        return self.most_tokens // self.block_size

    @property
    def _most_manifest_bytes(self) -> int:
        return _MANIFEST_BYTES + _BYTES_OF_A_TOKEN * self.most_tokens

    def _hashes(self, token_ids: list[int]) -> list[bytes]:
        hashes: list[bytes] = []
        extend_block_hashes(hashes, token_ids, self.block_size)
        return hashes


class _BoundedReads(io.BytesIO):
    """Bytes of which `most_bytes` at most are given at a time, so that zipfile makes no endless list of members."""

    def __init__(self, data: bytes, most_bytes: int | None):
        super().__init__(data)
        self.most_bytes = most_bytes

    def read(self, size: int | None = -1) -> bytes:
        if self.most_bytes is not None and size is not None and size > self.most_bytes:
            raise zipfile.BadZipFile(f"its directory has {size} bytes; at most {self.most_bytes} can be right")
        return super().read(size)


def _member(index: int) -> str:
    return f"{index:06}.safetensors"


def _read_member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:  # what we write; a decoder would fail in its own way
        raise zipfile.BadZipFile(f"{name} is compressed")
    if max(member.file_size, member.compress_size) > most_bytes:
        raise zipfile.BadZipFile(f"{name} has {member.file_size} bytes; at most {most_bytes} can be right")
    return archive.read(member)
