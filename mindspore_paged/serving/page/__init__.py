"""The page at `/`: a chat and a picture of the pool, in files that need nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

FOLDER = Path(__file__).parent
FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""The browser loads nothing from elsewhere and runs no script that stands in the page, whatever a model writes."""

PATHS = frozenset({"/", *(f"/page/{name}" for name in FILES)})
"""What a browser asks for before it can send a key; there is nothing secret in it."""


def page_router() -> APIRouter:
    """The routes of PATHS."""
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _sender("index.html", "text/html"), methods=["GET"])
    for name, media_type in FILES.items():
        router.add_api_route(f"/page/{name}", _sender(name, media_type), methods=["GET"])
    return router


def _sender(name: str, media_type: str):
    async def send() -> FileResponse:
        return FileResponse(FOLDER / name, media_type=media_type, headers=HEADERS)

    return send
