"""GET /v1/models: what clients may call the model."""

from fastapi import APIRouter, Request

from mindspore_paged.serving.errors import ERRORS
from mindspore_paged.serving.schemas.models import ModelCard, ModelList
from mindspore_paged.serving.service import Service

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=ERRORS)
async def list_models(http: Request) -> ModelList:
    """All names of the model, and its adapters."""
    service = http.app.state.service
    names = (*service.model_names, *service.engine.lora.names)
    return ModelList(data=[_card(service, name) for name in names])


@router.get("/v1/models/{model:path}", responses=ERRORS)
async def retrieve_model(http: Request, model: str) -> ModelCard:
    """One of the names."""
    service = http.app.state.service
    return _card(service, service.checked_model(model))


def _card(service: Service, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=service.created,
        root=service.model_names[0],
        parent=None if name in service.model_names else service.model_names[0],
        max_model_len=service.engine.limits.max_model_len,
    )
