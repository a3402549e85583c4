"""Errors as bytes: one OpenAI error body for whatever goes wrong, wherever it goes wrong.

The body carries OpenAI's `error` object and, beside it, the `object`, `message` and `code` that
MLC LLM's clients read. Knows the exception tree and Litestar's HTTP exceptions; a message of any
other exception never leaves the process, only its log does.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from mlc_api.elsewhere import no_endpoint
from mlc_llm.errors import BadRequest, EngineUnavailable, MLCError, Overloaded

logger = logging.getLogger("mlc_llm.web")

RETRY_AFTER_SECONDS = 1


class Unauthorized(BadRequest):
    """The API key is missing or wrong."""

    status_code = 401
    code = "invalid_api_key"


class NoEndpoint(BadRequest):
    """No route has this path."""

    status_code = 404
    code = "not_found"


class BodyTooSlow(BadRequest):
    """The request body did not arrive in time."""

    status_code = 408
    code = "request_timeout"


class BodyEncoded(BadRequest):
    """The request body is compressed."""

    status_code = 415
    code = "unsupported_media_type"


class ErrorDetail(msgspec.Struct, frozen=True):
    """OpenAI's `error` object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """What every error answer holds."""

    error: ErrorDetail
    object: str
    message: str
    code: int
    """The HTTP status once more, as MLC LLM has it."""


def describe(error: BaseException) -> ErrorBody:
    """The body for any exception; what is not meant for users becomes a plain 500."""
    if isinstance(error, MLCError):
        detail = ErrorDetail(error.message, error.type, error.param, error.code)
        return ErrorBody(detail, "error", error.message, error.status_code)
    if isinstance(error, HTTPException):
        return _describe_http(error)
    detail = ErrorDetail("Internal server error.", "server_error", None, "internal_error")
    return ErrorBody(detail, "error", detail.message, 500)


def _describe_http(error: HTTPException) -> ErrorBody:
    status = HTTPStatus(error.status_code)
    message = HTTP_MESSAGES.get(status, f"{status.phrase}.")
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        message = _which_methods(error) or message
    kind = "invalid_request_error" if status < 500 else "server_error"
    detail = ErrorDetail(message, kind, None, status.name.lower())
    return ErrorBody(detail, "error", message, int(status))


def _which_methods(error: HTTPException) -> str | None:
    """Whoever opens an endpoint in a browser sends a GET; None where nothing is allowed."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    allowed = headers.get("allow", "")
    methods = sorted({name.strip() for name in allowed.split(",")} - {"", "HEAD", "OPTIONS"})
    if not methods:
        return None
    return f"This endpoint does not take that HTTP method; send {' or '.join(methods)}."


HTTP_MESSAGES = {
    HTTPStatus.METHOD_NOT_ALLOWED: "This endpoint does not take that HTTP method.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The request body is larger than this server accepts.",
}


def encode_error(error: BaseException) -> bytes:
    """The body as JSON."""
    return msgspec.json.encode(describe(error))


def error_event(error: BaseException) -> bytes:
    """The body as one server-sent event, for an error after the stream has begun."""
    return b"data: " + encode_error(error) + b"\n\n"


def error_headers(error: BaseException) -> dict[str, str]:
    """Headers that belong to the error: when to come back, which methods are allowed."""
    if isinstance(error, Overloaded | EngineUnavailable):
        return {"retry-after": str(RETRY_AFTER_SECONDS)}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, BodyTooSlow):
        return {"connection": "close"}
    return _http_headers(error) if isinstance(error, HTTPException) else {}


def _http_headers(error: HTTPException) -> dict[str, str]:
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["connection"] = "close"  # the rest of the body is not worth reading
    return headers


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND:
        error = NoEndpoint(no_endpoint(request.scope["path"]))
    body = describe(error)
    if body.code >= 500 and not isinstance(error, MLCError):
        logger.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return Response(
        msgspec.json.encode(body),
        status_code=body.code,
        media_type=MediaType.JSON,
        headers=error_headers(error),
    )


HANDLERS: ExceptionHandlersMap = {
    MLCError: answer_error,
    HTTPException: answer_error,
    Exception: answer_error,
}
