"""One page as bytes: the content of a full block with what proves whose it is and that nothing changed it."""

import hmac
import json
import math
import zlib
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from mindspore_paged.cache.page_layout import scales_of
from mindspore_paged.errors import DamagedPageError, ForeignPageError, IntegrityError
from mindspore_paged.wording import one_line, shortened

FORMAT = "mindspore_paged.page.1"
"""Kind and version of the bytes; another version is another model's page: never read."""

MOST_HEADER_BYTES = 2048
"""What a page's bytes hold beside its content: names, a digest, a checksum and a seal take some 500."""

_HEADER_LENGTH_BYTES = 8  # a safetensors file starts with its header's length
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
"""Types by safetensors' names: no text of a file is ever given to NumPy to make a type of."""


def page_checksum(block_hash: bytes, page: np.ndarray) -> str:
    """CRC-32 of a contiguous page, its name, type and shape, as 8 hexadecimal digits.

    It guards against accidents, not attackers, so speed decides: zlib's runs at memory speed, is in the standard
    library, and lets go of the interpreter lock while it runs. A key (PageFormat) guards against attackers.
    """
    return _checksum(block_hash, page.dtype.name, page.shape, page.reshape(-1).view(np.uint8))


@dataclass(frozen=True)
class PageFormat:
    """What the pages of one engine are as bytes; what bytes say of themselves is compared with it, never taken.

    model_fingerprint: equal for engines that can exchange pages. dtype, shape: of each page, as the pool has them.
    key: seals pages by HMAC-SHA256, so that only who knows it can write one that is read; None trusts whoever could
    write the bytes, to whom a checksum is no hindrance.
    """

    model_fingerprint: str
    dtype: np.dtype
    shape: tuple[int, ...]
    key: bytes | None = None

    @classmethod
    def of(cls, page: np.ndarray, model_fingerprint: str, key: bytes | None = None) -> "PageFormat":
        """That of pages like `page`."""
        return cls(model_fingerprint, page.dtype, page.shape, key)

    @cached_property
    def page_bytes(self) -> int:
        """Of the content alone."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def most_bytes(self) -> int:
        """What a page as bytes can have at most."""
        return self.page_bytes + MOST_HEADER_BYTES

    def encode(self, block_hash: bytes, page: np.ndarray, checksum: str) -> bytes:
        """A safetensors file of one tensor; `checksum` is what page_checksum gave when the page was known to be good.

        It is not computed afresh here: damage that happened since then must not be sealed with a right checksum.
        Raises IntegrityError for a page that is not of this format.
        """
        if (page.dtype, page.shape) != (self.dtype, self.shape):
            raise IntegrityError(f"a page {page.dtype} {page.shape} among those that are {self.dtype} {self.shape}")
        metadata = {
            "format": FORMAT,
            "model": self.model_fingerprint,
            "dtype": page.dtype.name,
            "checksum": checksum,
        }
        if self.key is not None:
            metadata["seal"] = self._seal(block_hash, page.reshape(-1).view(np.uint8))
        return save({"page": page}, metadata)

    def decode(self, block_hash: bytes, data: bytes) -> tuple[np.ndarray, str]:
        """The page, read-only, and its checksum; bfloat16 is that of ml_dtypes.

        Raises ForeignPageError for a page of another model, or one that is not sealed with the key; DamagedPageError
        for anything else but a whole page of that name.
        """
        name = f"page {block_hash.hex()}"
        if len(data) > self.most_bytes:
            raise DamagedPageError(f"{name}: {len(data)} bytes; a page of this pool has at most {self.most_bytes}")
        tensors, metadata = _parsed(name, data)
        if metadata.get("format") != FORMAT or metadata.get("model") != self.model_fingerprint:
            raise ForeignPageError(
                f"{name}: format {shortened(metadata.get('format'))} of model "
                f"{shortened(metadata.get('model'))}; needed: {FORMAT!r} of model {self.model_fingerprint!r}"
            )
        content = self._content(name, tensors, metadata)
        if self.key is not None and not self._is_sealed(block_hash, content, metadata.get("seal")):
            raise ForeignPageError(f"{name}: not sealed with the key of this engine")
        checksum = metadata.get("checksum")
        if _checksum(block_hash, self.dtype.name, self.shape, content) != checksum:
            raise DamagedPageError(f"{name}: its content does not have the checksum {shortened(checksum)}")
        page = np.ndarray(self.shape, self.dtype, content)
        page.flags.writeable = False
        return page, checksum

    def _content(self, name: str, tensors: dict, metadata: dict) -> bytes:
        """The bytes of the one tensor; raises DamagedPageError unless it is of this format's type and shape."""
        tensor = tensors.get("page")
        if tensor is None or len(tensors) != 1:
            raise DamagedPageError(f"{name}: holds {len(tensors)} tensors; it must be one, called page")
        found = metadata.get("dtype"), _DTYPES.get(tensor["dtype"]), tuple(tensor["shape"]), len(tensor["data"])
        if found != (self.dtype.name, self.dtype, self.shape, self.page_bytes):
            raise DamagedPageError(
                f"{name}: {shortened(found[0])}, stored as {tensor['dtype']} {shortened(found[2])}; the pages of "
                f"this pool are {self.dtype.name} {self.shape}"
            )
        return tensor["data"]

    def _is_sealed(self, block_hash: bytes, content, seal) -> bool:
        expected = self._seal(block_hash, content)
        return isinstance(seal, str) and hmac.compare_digest(seal.encode("utf-8", "replace"), expected.encode())

    def _seal(self, block_hash: bytes, content) -> str:
        described = [FORMAT, block_hash.hex(), self.model_fingerprint, self.dtype.name, list(self.shape)]
        seal = hmac.new(self.key, json.dumps(described).encode() + b"\0", "sha256")
        seal.update(content)
        return seal.hexdigest()


def is_finite(page: np.ndarray) -> bool:
    """Whether a page holds numbers alone: a NaN or an infinity would spread to every token behind it.

    Of int8, the scales count.
    """
    return bool(np.isfinite(scales_of(page) if page.dtype == np.int8 else page).all())


def _parsed(name: str, data: bytes) -> tuple[dict, dict]:
    """The tensors and the free text of a safetensors file; the library gives the text for mapped files only.

    A mapped file is no choice here: a read error would end the process by a signal instead of an OSError.
    """
    end = _HEADER_LENGTH_BYTES + int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    if end > _HEADER_LENGTH_BYTES + MOST_HEADER_BYTES:
        raise DamagedPageError(f"{name}: no header of a page")
    try:
        tensors = dict(deserialize(data))
        metadata = json.loads(data[_HEADER_LENGTH_BYTES:end]).get("__metadata__")
    except (SafetensorError, ValueError) as error:
        raise DamagedPageError(f"{name}: {one_line(error)}") from None
    if not isinstance(metadata, dict):
        raise DamagedPageError(f"{name}: it does not say whose it is")
    return tensors, metadata


def _checksum(block_hash, dtype_name, shape, content) -> str:
    description = f"{block_hash.hex()} {dtype_name} {shape}".encode()
    return f"{zlib.crc32(content, zlib.crc32(description)):08x}"
