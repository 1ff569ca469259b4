"""POST /v1/embeddings."""

import base64

import numpy as np
from fastapi import APIRouter, Request, Response

from mindspore_paged.serving.errors import ERRORS, bad_request
from mindspore_paged.serving.generation import Generation
from mindspore_paged.serving.json_body import JsonRoute
from mindspore_paged.serving.schemas.embeddings import Embedding, EmbeddingRequest, Embeddings, EmbeddingUsage
from mindspore_paged.serving.service import Service
from mindspore_paged.serving.streams import json_answer, unless_gone

router = APIRouter(route_class=JsonRoute, tags=["embeddings"])


@router.post("/v1/embeddings", response_model=Embeddings, responses=ERRORS)
async def create_embeddings(http: Request, body: EmbeddingRequest) -> Response:
    """The pooled hidden states of texts, each a vector of length 1; for a server with `runtime.embeddings: true`."""
    service: Service = http.app.state.service
    headers, model = body.warning_headers(), service.checked_model(body.model)
    _check_dimensions(body.dimensions, service.engine.limits.embedding_size)
    requests = await service.prepare(
        [{"prompt" if isinstance(text, str) else "prompt_token_ids": text} for text in body.input],
        None,
        pooling=body.pooling or "mean",
        priority=body.priority,
        cache_salt=body.cache_salt,
        tenant=http.scope.get("tenant"),
        model=model,
        param="input",
    )
    await unless_gone(http, Generation(service, requests).answers())
    num_tokens = sum(len(request.prompt_token_ids) for request in requests)
    answer = Embeddings(
        data=[
            Embedding(index=index, embedding=_encoded(request.embedding, body.encoding_format))
            for index, request in enumerate(requests)
        ],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )
    return json_answer(answer, headers)


def _check_dimensions(wanted: int | None, there: int | None) -> None:
    if wanted is not None and there is not None and wanted != there:
        raise bad_request(f"dimensions is {wanted}; this model's embeddings have {there}", "dimensions")


def _encoded(embedding: np.ndarray, encoding_format: str | None) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode("ascii")
    return embedding.tolist()
