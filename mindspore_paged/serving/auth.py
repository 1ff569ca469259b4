"""API keys: who may ask. Only digests of keys are kept, and nothing of a key is ever written anywhere."""

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.errors import ApiError, error_response
from mindspore_paged.serving.page import PATHS

OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/metrics"}) | PATHS
"""What is answered without a key: nothing of it tells what anyone asked."""

MOST_BYTES = 2**20


def read_api_keys(path: Path | None) -> tuple[bytes, ...]:
    """Digests of the keys in a file, one a line; empty lines are skipped, and None has none.

    Raises ConfigError for a file that cannot be read, or that holds no key or what cannot be one.
    """
    if path is None:
        return ()
    try:
        lines = read_bounded(path, MOST_BYTES).split(b"\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"server.api_key_file is {path}: cannot read the keys: {reason}") from None
    keys = [line.strip() for line in lines]
    for number, key in enumerate(keys, start=1):
        if any(not 0x21 <= byte <= 0x7E for byte in key):
            raise ConfigError(
                f"server.api_key_file is {path}: line {number} is no key; a key is letters, digits and signs of ASCII"
            )
    if not any(keys):
        raise ConfigError(f"server.api_key_file is {path}: no key in it; one a line is needed")
    return tuple(_digest(key) for key in keys if key)


class KeyCheck:
    """Lets requests with a known key through, as `Authorization: Bearer KEY` or `x-api-key: KEY`; others get a 401.

    Every known key is compared, in a time that does not depend on what was sent. What lies behind finds the key's
    digest in the scope, as `tenant`.
    """

    def __init__(self, app: ASGIApp, digests: Sequence[bytes]):
        self._app = app
        self._digests = digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the ASGI application that checks."""
        if scope["type"] == "http" and self._digests and scope["path"] not in OPEN_PATHS:
            given = _digest(_key_of(Headers(scope=scope)).encode("latin-1"))
            matches = [hmac.compare_digest(given, known) for known in self._digests]
            if not any(matches):
                error = ApiError(
                    401,
                    "the API key is missing or not known; send it as Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error_response(error, scope["path"])(scope, receive, send)
                return
            scope["tenant"] = given.hex()
        await self._app(scope, receive, send)


def _key_of(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
