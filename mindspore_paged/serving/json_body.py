"""Bodies of requests, read as strictly as JSON is meant: UTF-8, no NaN, no half surrogate pairs, not too deep."""

from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from mindspore_paged.serving.errors import bad_request
from mindspore_paged.wording import one_line


class JsonRequest(Request):
    """A request whose body is parsed by pydantic's parser, which bounds depth and the length of numbers."""

    async def json(self) -> Any:
        """The body's value; raises ApiError where it is no JSON."""
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise bad_request(f"the body is not JSON: {one_line(error)}", code="invalid_json") from None


class JsonRoute(APIRoute):
    """A path whose bodies are read by `JsonRequest`; for `APIRouter(route_class=JsonRoute)`."""

    def get_route_handler(self) -> Callable:
        """The handler, which gets a JsonRequest."""
        handler = super().get_route_handler()

        async def handle(http: Request) -> Response:
            return await handler(JsonRequest(http.scope, http.receive))

        return handle
