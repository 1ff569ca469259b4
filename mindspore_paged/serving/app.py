"""The application: all paths, and what stands before them."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.config import ServerSection
from mindspore_paged.serving.auth import KeyCheck
from mindspore_paged.serving.body_limit import BodyLimit
from mindspore_paged.serving.errors import add_error_handlers
from mindspore_paged.serving.routes import chat, completions, health, models, tokens
from mindspore_paged.serving.service import Service, names_of

ROUTERS = (models.router, chat.router, completions.router, tokens.router, health.router)


def create_app(
    engine: AsyncLLM,
    options: ServerSection | None = None,
    *,
    model_names: Sequence[str] = (),
    api_keys: Sequence[bytes] = (),
) -> FastAPI:
    """The server's application; `app.state.service` is the Service that its routes work with.

    options: None takes the engine's own. model_names: what clients call the model; none takes the config's.
    api_keys: digests, as `read_api_keys` gives them; none lets everyone in.
    """
    options = options or engine.config.server
    app = FastAPI(
        title="mindspore_paged",
        version=version("mindspore_paged"),
        docs_url=None,  # these pages fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = Service(engine, options, model_names or names_of(engine.config))
    for router in ROUTERS:
        app.include_router(router)
    add_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=options.max_body_bytes, seconds=options.connection_timeout)
    app.add_middleware(KeyCheck, digests=tuple(api_keys))
    if options.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=options.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.openapi = lambda: _openapi(app)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of all paths, without the 422 that FastAPI adds: bodies that are refused get a 400."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
    return app.openapi_schema
