"""The text and bytes that single tokens stand for, for log-probabilities."""

import re

from mindspore_paged.engine.requests.detokenizer import REPLACEMENT
from mindspore_paged.tokenizer import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def _bytes_of_byte_level() -> dict[str, int]:
    """The byte that each character of byte-level BPE's alphabet stands for (GPT-2's bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_LEVEL = _bytes_of_byte_level()


class TokenTexts:
    """Texts and bytes of tokens, looked up once each; without a tokenizer they are empty."""

    def __init__(self, tokenizer: Tokenizer | None):
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, bytes]] = {}

    def of(self, token_id: int) -> tuple[str, bytes]:
        """The text, with U+FFFD for parts of characters, and the bytes as they are."""
        if token_id not in self._known:
            self._known[token_id] = self._looked_up(token_id)
        return self._known[token_id]

    def unique(self, token_id: int) -> str:
        """A text that no other token has: that of a part of a character shows its bytes, as OpenAI's did."""
        text, data = self.of(token_id)
        return text if REPLACEMENT not in text else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _looked_up(self, token_id: int) -> tuple[str, bytes]:
        if self._tokenizer is None:
            return "", b""
        backend = self._tokenizer.backend
        name = backend.id_to_token(token_id)
        if name is None:  # the model's head is wider than the vocabulary
            return "", b""
        # Behind another token: alone, some decoders strip the space that it begins with.
        alone = backend.decode([token_id], skip_special_tokens=False)
        before = backend.decode([token_id, token_id], skip_special_tokens=False)
        text = before[len(alone) :] if before.startswith(alone) else alone
        if REPLACEMENT not in text:
            return text, text.encode()
        if found := _BYTE_TOKEN.fullmatch(name):
            return REPLACEMENT, bytes([int(found[1], 16)])
        if all(character in _BYTE_LEVEL for character in name):
            return text, bytes(_BYTE_LEVEL[character] for character in name)
        return text, text.encode()
