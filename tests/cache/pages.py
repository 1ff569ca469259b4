"""Pages for the tests of the tiers: the content of each is a function of its number, so that a wrong one shows."""

from hashlib import sha256
from threading import Event

import ml_dtypes
import numpy as np

from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.page_format import PageFormat, page_checksum

PAGE_BYTES = 96
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)


def name(number: int) -> bytes:
    """The block hash of page `number`."""
    return sha256(bytes([number])).digest()


def make_page(number: int, dtype=np.float32) -> np.ndarray:
    """Page `number`, written afresh: PAGE_BYTES of any bits, NaNs among them."""
    raw = np.random.default_rng(number).integers(0, 256, PAGE_BYTES, np.uint8)
    return raw.view(dtype).reshape(2, 3, -1)


def format_of(model: str = "model", dtype=np.float32, key: bytes | None = None) -> PageFormat:
    """The format of such pages."""
    return PageFormat.of(make_page(0, dtype), model, key)


def is_page(page: np.ndarray, number: int) -> bool:
    """Whether it is page `number` to the last bit, type and shape included, and cannot be written."""
    true = make_page(number)
    same = page.dtype == true.dtype and page.shape == true.shape and page.tobytes() == true.tobytes()
    return same and not page.flags.writeable


def write(tier: FileTier, number: int) -> bool:
    """Put page `number` straight into a file tier."""
    page = make_page(number)
    return tier.put(name(number), page, page_checksum(name(number), page))


def path_of(tier: FileTier, number: int):
    """The file of page `number`."""
    return tier._folder / f"{name(number).hex()}.safetensors"


def flip_bit(data: bytes, place: int) -> bytes:
    """`data` with one bit changed."""
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


class GatedFileTier(FileTier):
    """A disk that is as slow as the test wants: `put` waits for `gate` before it writes, `get` after it has read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.gate, self.entered, self.calls = Event(), Event(), []

    def put(self, block_hash, *content):
        self.calls.append(("put", block_hash))
        self._wait()
        return super().put(block_hash, *content)

    def get(self, block_hash):
        self.calls.append(("get", block_hash))
        found = super().get(block_hash)
        self._wait()
        return found

    def _wait(self):
        self.entered.set()
        assert self.gate.wait(10), "the test never opened the gate"
