"""The application: all paths, and what stands before them."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from mindspore_paged.async_llm import AsyncLLM
from mindspore_paged.config import ServerSection
from mindspore_paged.errors import ConfigError
from mindspore_paged.serving.access_log import write_access_line
from mindspore_paged.serving.auth import KeyCheck
from mindspore_paged.serving.body_limit import BodyLimit
from mindspore_paged.serving.errors import add_error_handlers
from mindspore_paged.serving.metrics import ServerMetrics, metrics_router
from mindspore_paged.serving.observed_llm import ObservedLLM
from mindspore_paged.serving.page import page_router
from mindspore_paged.serving.pool_events import pool_router
from mindspore_paged.serving.request_record import REQUEST_ID_HEADER, RecordRequests
from mindspore_paged.serving.routes import (
    chat,
    completions,
    embeddings,
    health,
    lora,
    messages,
    models,
    responses,
    tokens,
)
from mindspore_paged.serving.service import Service, names_of
from mindspore_paged.serving.tracing import Tracing

ROUTERS = (
    models.router,
    chat.router,
    completions.router,
    responses.router,
    messages.router,
    embeddings.router,
    tokens.router,
    lora.router,
    health.router,
)


def create_app(
    engine: AsyncLLM,
    options: ServerSection | None = None,
    *,
    model_names: Sequence[str] = (),
    api_keys: Sequence[bytes] = (),
    tracer_provider: Any = None,
) -> FastAPI:
    """The server's application; `app.state.service` is the Service that its routes work with.

    options: None takes the engine's own. model_names: what clients call the model; none takes the config's.
    api_keys: digests, as `read_api_keys` gives them; none lets everyone in. tracer_provider:
    OpenTelemetry's, for spans of requests; None makes none.
    """
    options = options or engine.config.server
    app = FastAPI(
        title="mindspore_paged",
        version=version("mindspore_paged"),
        docs_url=None,  # these pages fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    names = model_names or names_of(engine.config)
    if taken := set(names) & set(engine.lora.names):
        raise ConfigError(f"model.lora_adapters has {min(taken)!r}, which is the model's own name; give it another")
    metrics = ServerMetrics(names[0], engine.limits.max_model_len)
    observed = ObservedLLM(engine, metrics.count)
    service = app.state.service = Service(observed, options, names)
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(metrics_router(engine, metrics))
    app.include_router(pool_router(engine, observed.names, lambda: service.is_draining))
    app.include_router(page_router())
    add_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=options.max_body_bytes, seconds=options.connection_timeout)
    app.add_middleware(KeyCheck, digests=tuple(api_keys))
    if options.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER],
        )
    # Before all else, also what answers errors of the server's own: those answers want their request's id most.
    others, sinks = app.build_middleware_stack, [write_access_line]
    if tracer_provider is not None:
        sinks.append(Tracing(tracer_provider, names[0]).write)
    app.build_middleware_stack = lambda: RecordRequests(others(), sinks)
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
