"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them, where the operator allows it."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse

from mindspore_paged.engine.replicas.adapters import load_lora_adapter, unload_lora_adapter
from mindspore_paged.errors import RequestError
from mindspore_paged.serving.errors import ERRORS, ApiError, as_api_error, bad_request
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.schemas.lora import LoadLoraAdapter, UnloadLoraAdapter
from mindspore_paged.serving.service import Service
from mindspore_paged.wording import shortened

router = APIRouter(route_class=JsonRoute, tags=["models"])

NOT_ALLOWED = ApiError(
    403, "adapters are not loaded by requests here; server.allow_lora_loading: true allows it", code="not_allowed"
)
_ERRORS = ERRORS | {403: ERRORS[400] | {"description": "server.allow_lora_loading is false"}}


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse, responses=_ERRORS)
async def load(http: Request, body: LoadLoraAdapter) -> PlainTextResponse:
    """Load a PEFT folder of the server's file system; requests ask for it by giving its name as the model's."""
    service = _service(http)
    if body.lora_name in service.model_names:
        raise bad_request(f"lora_name {shortened(body.lora_name)} is the model's own name", "lora_name")
    try:
        adapter = await asyncio.to_thread(service.engine.lora.read, body.lora_path)
        await service.engine.call(load_lora_adapter, body.lora_name, adapter)
    except RequestError as error:
        raise as_api_error(error, "lora_path") from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse, responses=_ERRORS)
async def unload(http: Request, body: UnloadLoraAdapter) -> PlainTextResponse:
    """Let no further request have an adapter; those under way end with it."""
    service = _service(http)
    if body.lora_name not in service.engine.lora.names:
        raise ApiError(404, f"the adapter {shortened(body.lora_name)} is not loaded", code="model_not_found")
    await service.engine.call(unload_lora_adapter, body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _service(http: Request) -> Service:
    service: Service = http.app.state.service
    if not service.options.allow_lora_loading:
        raise NOT_ALLOWED
    return service
