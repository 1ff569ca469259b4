"""What workers and supervisor say to each other over TCP: one JSON object a line."""

import json

MAX_LINE_BYTES = 1 << 20


class ProtocolError(Exception):
    """Bytes that no worker or supervisor of this package would send."""


def encode(**fields) -> bytes:
    """One message as bytes."""
    return json.dumps(fields).encode() + b"\n"


class Lines:
    """Puts messages together again from the pieces in which TCP delivers them."""

    def __init__(self):
        self._rest = b""

    def feed(self, data: bytes) -> list[dict]:
        """The messages that are whole now; ProtocolError if a line is not one, or has no end within 1 MiB."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
        return [_decode(line) for line in lines]


def _decode(line: bytes) -> dict:
    try:
        message = json.loads(line)
    except ValueError:
        raise ProtocolError(f"not a message: {line[:80]!r}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"not a message: {line[:80]!r}")
    return message
