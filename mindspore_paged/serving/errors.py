"""Errors as clients see them: OpenAI's body, with the status that tells them whether to try again."""

import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mindspore_paged.errors import EngineStoppedError, PagedError, RequestError, SlowReaderError
from mindspore_paged.wording import one_line, shortened

RETRY_AFTER_SECONDS = 1
CLIENT_GONE = 499
"""The status that nginx made known for a client that did not wait; nobody receives it."""


class ErrorDetail(BaseModel):
    """What is wrong; param: the key of the body that it is about; code: for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class AnthropicErrorDetail(BaseModel):
    """What is wrong, as Anthropic says it."""

    type: str
    message: str


class AnthropicErrorResponse(BaseModel):
    """The body of an error below ANTHROPIC_PATHS."""

    type: str = "error"
    error: AnthropicErrorDetail


ANTHROPIC_PATHS = "/v1/messages"

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(HTTPException):
    """An error with its status, and what the body says of it; raised anywhere below a route."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.message, self.param, self.code = message, param, code

    @property
    def kind(self) -> str:
        """OpenAI's `type` for the status."""
        if self.status_code == 429:
            return "rate_limit_error"
        return "server_error" if self.status_code >= 500 else "invalid_request_error"

    @property
    def detail_of_body(self) -> ErrorDetail:
        """What the body says."""
        return ErrorDetail(message=self.message, type=self.kind, param=self.param, code=self.code)


ERRORS = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "the body cannot be used",
        401: "no key that is known",
        404: "no such model",
        413: "the body is too large",
        429: "the queue is full",
        500: "the engine failed",
        503: "the server starts, or is about to end, or the request waited too long",
        504: "the request took too long",
    }.items()
}
"""For `responses` of a route."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400."""
    return ApiError(400, message, param=param, code=code)


def try_later(status: int, message: str, code: str) -> ApiError:
    """An error that may be gone when the same request comes again; says when."""
    return ApiError(status, message, code=code, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


MESSAGES_ERRORS = {status: told | {"model": AnthropicErrorResponse} for status, told in ERRORS.items()}
"""The same for routes below ANTHROPIC_PATHS."""


def draining() -> ApiError:
    """What a server that is about to end tells whoever asks for something new."""
    return try_later(503, "the server is about to end, and takes no further requests", "draining")


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """Any error as one for clients; param: what it is about, where its own words do not begin with a key."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        code = "context_length_exceeded" if "max_model_len" in str(error) else None
        return bad_request(str(error), _key_in(str(error)) or param, code)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_starlette(error)
    if isinstance(error, EngineStoppedError):
        return draining()
    if isinstance(error, SlowReaderError):
        return ApiError(503, "the answer was not read fast enough, and ended", code="slow_reader")
    if isinstance(error, PagedError):
        return ApiError(500, f"the engine failed: {one_line(error)}", code="engine_failed")
    return ApiError(500, "the server failed to answer this request", code="internal_error")


def anthropic_body(error: ApiError) -> str:
    """An error in Anthropic's form, as JSON."""
    kind = _ANTHROPIC_TYPES.get(error.status_code, "api_error" if error.status_code >= 500 else "invalid_request_error")
    return AnthropicErrorResponse(error=AnthropicErrorDetail(type=kind, message=error.message)).model_dump_json()


def body_of(error: ApiError, path: str) -> bytes:
    """The body of the answer that an error is, in the form of the interface that `path` belongs to."""
    if path.startswith(ANTHROPIC_PATHS):
        return anthropic_body(error).encode()
    return ErrorResponse(error=error.detail_of_body).model_dump_json().encode()


def error_response(error: ApiError, path: str) -> Response:
    """The answer that an error is, as `body_of` writes it."""
    return Response(body_of(error, path), error.status_code, error.headers, "application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Have every error below `app` answered in OpenAI's form."""

    async def answer(http: Request, error: Exception) -> Response:
        return error_response(as_api_error(error), http.scope["path"])

    for kind in (PagedError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _key_in(message: str) -> str | None:
    """The key that a message of ours begins with, as in `temperature is -1; it must be …`."""
    found = re.match(r"([a-z_]+(?:\[\d+\]|\.[a-z_]+)*)(?: is |: )", message)
    return found[1] if found and found[1] != "it" else None


_ALLOWED = {
    "model_attributes_type": "a JSON object",
    "dict_type": "a JSON object",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "too_short": "a list that is not empty",
    "string_too_short": "text that is not empty",
}


def _of_validation(error: RequestValidationError) -> ApiError:
    problem = error.errors()[0]
    where = [part for part in problem["loc"] if part not in ("body", "query", "path")]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
    param = one_line(param) or None
    if problem["type"] == "missing" and param is None:
        return bad_request("the request has no JSON body; send one with Content-Type: application/json")
    if problem["type"] == "missing":
        return bad_request(f"you must give {param}", param, "missing_required_parameter")
    if param is None:
        return bad_request("the body must be a JSON object, sent with Content-Type: application/json")
    if problem["type"] == "value_error":
        allowed = str(problem["ctx"]["error"])
    else:
        allowed = _ALLOWED.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    return bad_request(f"{param} is {shortened(problem['input'])}; it must be {one_line(allowed)}", param)


def _of_starlette(error: HTTPException) -> ApiError:
    messages = {
        404: ("there is no such path; GET /openapi.json lists those that there are", "unknown_url"),
        405: ("this path does not take this method", "method_not_allowed"),
    }
    message, code = messages.get(error.status_code, (one_line(error.detail), None))
    return ApiError(error.status_code, message, code=code, headers=error.headers)
