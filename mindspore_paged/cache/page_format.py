"""One page as bytes: the content of a full block with what proves whose it is and that nothing changed it."""

import json
import zlib

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from mindspore_paged.errors import DamagedPageError, ForeignPageError

FORMAT = "mindspore_paged.page.1"
"""Kind and version of the bytes; another version is another model's page: never read."""

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_HEADER_LENGTH_BYTES = 8  # a safetensors file starts with its header's length


def page_checksum(block_hash: bytes, page: np.ndarray) -> str:
    """CRC-32 of a contiguous page, its name, type and shape, as 8 hexadecimal digits.

    It guards against accidents, not attackers, so speed decides: zlib's runs at memory speed, is in the standard
    library, and lets go of the interpreter lock while it runs.
    """
    return _checksum(block_hash, page.dtype.name, page.shape, page.reshape(-1).view(np.uint8))


def encode_page(page: np.ndarray, checksum: str, model_fingerprint: str) -> bytes:
    """A safetensors file of one tensor; `checksum` is what page_checksum gave when the page was known to be good.

    It is not computed afresh here: damage that happened since then must not be sealed with a right checksum.
    """
    metadata = {
        "format": FORMAT,
        "model": model_fingerprint,
        "dtype": page.dtype.name,
        "checksum": checksum,
    }
    return save({"page": page}, metadata)


def decode_page(data: bytes, block_hash: bytes, model_fingerprint: str) -> tuple[np.ndarray, str]:
    """The page, read-only, and its checksum; bfloat16 is that of ml_dtypes.

    Raises ForeignPageError or DamagedPageError for anything but a whole page of that name and model.
    """
    try:
        tensors = dict(deserialize(data))
    except SafetensorError as error:
        raise DamagedPageError(f"page {block_hash.hex()}: {error}") from error
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT or metadata.get("model") != model_fingerprint:
        raise ForeignPageError(
            f"page {block_hash.hex()}: format {metadata.get('format')!r} of model {metadata.get('model')!r}; "
            f"needed: {FORMAT!r} of model {model_fingerprint!r}"
        )
    checksum, dtype_name, tensor = metadata.get("checksum"), metadata.get("dtype"), tensors.get("page")
    if tensor is None or _checksum(block_hash, dtype_name, tuple(tensor["shape"]), tensor["data"]) != checksum:
        raise DamagedPageError(f"page {block_hash.hex()}: its content does not have the checksum {checksum}")
    dtype = _BFLOAT16 if dtype_name == "bfloat16" else np.dtype(dtype_name)
    page = np.ndarray(tensor["shape"], dtype, tensor["data"])
    page.flags.writeable = False
    return page, checksum


def _checksum(block_hash, dtype_name, shape, content) -> str:
    description = f"{block_hash.hex()} {dtype_name} {shape}".encode()
    return f"{zlib.crc32(content, zlib.crc32(description)):08x}"


def _metadata(data: bytes) -> dict[str, str]:
    """The free text of a safetensors file that deserialize() has accepted; the library gives it for mapped files only.

    A mapped file is no choice here: a read error would end the process by a signal instead of an OSError.
    """
    end = _HEADER_LENGTH_BYTES + int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    return json.loads(data[_HEADER_LENGTH_BYTES:end]).get("__metadata__", {})
