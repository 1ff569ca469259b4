"""The list of models."""

from typing import Literal

from pydantic import BaseModel


class ModelCard(BaseModel):
    """A name that requests may give. parent: of an adapter the model that it adapts."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mindspore_paged"
    root: str
    parent: str | None = None
    max_model_len: int


class ModelList(BaseModel):
    """All names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
