"""Whether the server lives, whether it takes requests, and what it is."""

from importlib.metadata import version

from fastapi import APIRouter, Request
from pydantic import BaseModel

from mindspore_paged.serving.errors import draining

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: str = "ok"


class Version(BaseModel):
    """The package's version."""

    version: str


@router.get("/health")
async def health() -> Health:
    """200 as long as the engine lives, also while the server drains."""
    return Health()


@router.get("/ready")
async def ready(http: Request) -> Health:
    """200 as long as requests are taken, 503 while the server starts or drains: for load balancers."""
    if http.app.state.service.is_draining:
        raise draining()
    return Health()


@router.get("/version")
async def get_version() -> Version:
    """The version of the package that serves."""
    return Version(version=version("mindspore_paged"))
