"""What somebody who knows the formats can write: pages with a right checksum, whatever they hold."""

import json
import zlib

import numpy as np

from mindspore_paged.cache.page_format import FORMAT

INVENTED_DTYPES = ["object", "O4", "=O", "i4,(", "", "t", "m8", "M8[s]", "S4", "U1", "V8", "complex64", "float64", "f4"]
"""What NumPy would make a type of, or fail at in its own way."""


def page_file(header: dict, content: bytes) -> bytes:
    """A safetensors file of any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def forged_page(block_hash: bytes, model: str, dtype: str, stored: str, shape, content: bytes, **metadata) -> bytes:
    """A page as bytes, with the checksum that its own words call for."""
    checksum = zlib.crc32(content, zlib.crc32(f"{block_hash.hex()} {dtype} {tuple(shape)}".encode()))
    own = {"format": FORMAT, "model": model, "dtype": dtype, "checksum": f"{checksum:08x}"}
    tensor = {"dtype": stored, "shape": list(shape), "data_offsets": [0, len(content)]}
    return page_file({"__metadata__": own | metadata, "page": tensor}, content)


def forged_like(page: np.ndarray, block_hash: bytes, model: str, dtype: str) -> bytes:
    """A page of the very size and shape that is expected, but for the name of its type."""
    return forged_page(block_hash, model, dtype, "F32", page.shape, page.tobytes())
