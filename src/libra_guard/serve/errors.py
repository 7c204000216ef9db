"""Every error in the shape that clients of OpenAI's API know, with the status that fits.

``{"error": {"message", "type", "param", "code"}}``. No message quotes a user's text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from libra_guard.errors import BackendError, LibraError, RefusedError, UsageError
from libra_guard.records import as_json
from libra_guard.serve.batcher import ClosingError, DeadlineError, QueueFullError, TooMuchError
from libra_guard.serve.wording import fault_of

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
COME_BACK = 1
"""Seconds, where nothing better is known."""


_RETRY_AFTER = {"description": "Seconds after which to come back.", "schema": {"type": "integer", "minimum": 1}}
_CHALLENGE = {"description": "The kind of key.", "schema": {"type": "string", "const": "Bearer"}}
_TOLD: dict[int, str] = {
    400: "The request is wrong: `param` says where, `message` what is needed.",
    401: "There is no API key, or a wrong one.",
    404: "There is no guard or no policy of this name.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    415: "The body is not said to be JSON in UTF-8.",
    429: "Too much waits to be judged.",
    500: "The server failed; its log says why, under this answer's `x-request-id`.",
    502: "The guard's model failed.",
    503: "The server is being stopped, or has too many requests under way.",
    504: "Not judged within the deadline.",
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": _CHALLENGE},
    429: {"Retry-After": _RETRY_AFTER},
    503: {"Retry-After": _RETRY_AFTER},
}


class ErrorDetail(BaseModel):
    """What was wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    message: str
    """For people: what was wrong, where, and what to do. It may change; go by `code`."""
    type: str
    """As OpenAI's: `invalid_request_error`, `authentication_error`, `not_found_error`, `rate_limit_error`,
    `server_error`."""
    param: str | None
    """The field at fault, as `conversations[3].response`; null where no single one is."""
    code: str | None
    """For programs: `missing`, `text_too_long`, `queue_full`."""


class ErrorBody(BaseModel):
    """How every error of this server looks."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: ErrorDetail


def documented(*statuses: int, **told: str) -> dict[int | str, dict[str, Any]]:
    """Errors, for a route's description.

    Args:
        statuses: Those that it answers.
        told: What is said of one in place of the usual words: ``s404="..."``.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"model": ErrorBody, "description": told.get(f"s{status}", _TOLD[status])}
        if status in _HEADERS:
            found[status]["headers"] = _HEADERS[status]
    return found


class ApiError(HTTPException):
    """A request that gets an error for its answer.

    Args:
        status: HTTP status.
        message: For people: what was wrong, where, what to do. Without the user's text.
        type: Of OpenAI's; by default by the status.
        param: Name of the field at fault, as ``conversations[3].response``.
        code: For programs.
        headers: Further ones of the answer.
        reason: Under which ``Metrics.rejected`` counts it; None for what is not counted.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message, self.param, self.code, self.reason = message, param, code, reason
        self.type = type or _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_response(error: ApiError) -> Response:
    """The answer that an error is."""
    return Response(as_json(error_body(error)), error.status_code, error.headers, media_type="application/json")


def error_body(error: ApiError) -> dict[str, Any]:
    """What an error says, as an object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def api_error(error: Exception) -> ApiError:
    """What is answered where ``error`` was raised."""
    for kind, make in _OF:
        if isinstance(error, kind):
            return make(error)
    return ApiError(500, "the server failed; its log says why, under this answer's x-request-id", code="internal_error")


def add_handlers(app: FastAPI) -> None:
    """Makes an application answer its errors in this shape; what nobody foresaw is for the outermost middleware."""

    async def answer(request: Request, error: Exception) -> Response:
        made = _of_fields(error, request) if isinstance(error, RequestValidationError) else api_error(error)
        if made.reason:
            request.app.state.metrics.rejected(made.reason)
        if made.status_code >= 500 and isinstance(error, LibraError):
            _log.error("answered with %d", made.status_code, exc_info=error)
        return error_response(made)

    for kind in (HTTPException, RequestValidationError, LibraError):
        app.add_exception_handler(kind, answer)


def _of_http(error: HTTPException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if error.status_code == 404:
        return ApiError(404, "there is nothing at this path; the API is under /v1/", code="unknown_path")
    if error.status_code == 405:
        taken = f"; it takes {error.headers['Allow']}" if error.headers else ""
        message = f"this path does not take this method{taken}"
        return ApiError(405, message, code="method_not_allowed", headers=error.headers)
    return ApiError(error.status_code, HTTPStatus(error.status_code).phrase.lower(), headers=error.headers)


def _of_fields(error: RequestValidationError, request: Request) -> ApiError:
    field = request.scope["route"].body_field
    fault = fault_of(error.errors(), field.field_info.annotation)
    return ApiError(400, fault.message, param=fault.param, code=fault.code)


def _of_full(error: QueueFullError) -> ApiError:
    wait = {"retry-after": str(math.ceil(error.retry_after))}
    message = f"too much waits to be judged; come back in {wait['retry-after']} s"
    return ApiError(429, message, code="queue_full", headers=wait, reason="queue_full")


def _of_late(_: DeadlineError) -> ApiError:
    return ApiError(504, "not judged within the deadline", code="deadline", reason="deadline")


def _of_closing(_: ClosingError) -> ApiError:
    wait = {"retry-after": str(COME_BACK)}
    return ApiError(503, "the server is being stopped", code="closing", headers=wait, reason="closing")


_OF: tuple[tuple[type[Exception], Callable[[Any], ApiError]], ...] = (
    (HTTPException, _of_http),
    (QueueFullError, _of_full),
    (DeadlineError, _of_late),
    (ClosingError, _of_closing),
    (RefusedError, lambda _: ApiError(400, "the guard's model does not take this text", code="refused_by_model")),
    (BackendError, lambda _: ApiError(502, "the guard's model failed", code="guard_failed")),
    (TooMuchError, lambda error: ApiError(400, str(error), code="too_much")),
    (UsageError, lambda error: ApiError(400, str(error))),
)
