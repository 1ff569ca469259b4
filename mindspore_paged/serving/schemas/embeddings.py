"""Bodies of /v1/embeddings."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from mindspore_paged.engine.requests.pooling import Pooling
from mindspore_paged.serving.schemas.common import LONGEST_SALT, OpenSchema
from mindspore_paged.serving.schemas.completions import Prompts


class EmbeddingRequest(OpenSchema):
    """Texts, or token ids, whose embeddings are wanted.

    dimensions: none but what the model has. pooling: which hidden states count (`mean`, if it is left out). priority,
    cache_salt: as of completions.
    """

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    pooling: Pooling | None = None
    priority: int | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=LONGEST_SALT)] | None = None


class Embedding(BaseModel):
    """The vector of one text: numbers, or base64 of its float32 in little endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were counted."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
