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
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from libra_guard.errors import BackendError, LibraError, RefusedError, UsageError
from libra_guard.records import as_json
from libra_guard.serve.batcher import ClosingError, DeadlineError, QueueFullError

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_LONGEST = 80
"""Characters of a field's name that are repeated to who sent it."""
_WORDS = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such field",
    "string_type": "a text is needed",
    "string_too_short": "it is empty",
    "list_type": "a list is needed",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "an object is needed"),
}
"""Kind of pydantic's error → words that do not speak of Python."""
_COME_BACK = 1
"""Seconds, where nothing better is known."""


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    """For people."""
    type: str
    param: str | None
    """The field at fault, as ``conversations[3].response``."""
    code: str | None
    """For programs."""


class ErrorBody(BaseModel):
    """How every error looks."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)
}
"""For the API's description."""


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
        made = api_error(error)
        if made.reason:
            request.app.state.metrics.rejected(made.reason)
        if made.status_code >= 500 and isinstance(error, LibraError):
            _log.error("answered with %d", made.status_code, exc_info=error)
        return error_response(made)

    for kind in (HTTPException, RequestValidationError, LibraError):
        app.add_exception_handler(kind, answer)


def place(location: tuple[str | int, ...]) -> str | None:
    """``("body", "conversations", 3, "response")`` → ``conversations[3].response``; without forms, ``<...>``."""
    name = ""
    for part in location[1:]:
        if isinstance(part, str) and part.startswith("<"):
            continue
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name[:_LONGEST] or None


def _of_http(error: HTTPException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if error.status_code == 404:
        return ApiError(404, "there is nothing at this path", code="unknown_path")
    if error.status_code == 405:
        return ApiError(405, "this path does not take this method", code="method_not_allowed", headers=error.headers)
    return ApiError(error.status_code, HTTPStatus(error.status_code).phrase.lower(), headers=error.headers)


def _of_fields(error: RequestValidationError) -> ApiError:
    found = error.errors()[0]
    where = place(tuple(found["loc"]))
    what = _WORDS.get(found["type"]) or str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == "missing" and where is None:
        return ApiError(400, "the request has no body; JSON is needed", code="missing_body")
    return ApiError(400, f"{where}: {what}" if where else what, param=where, code=found["type"])


def _of_full(error: QueueFullError) -> ApiError:
    wait = {"retry-after": str(math.ceil(error.retry_after))}
    message = f"too much waits to be judged; come back in {wait['retry-after']} s"
    return ApiError(429, message, code="queue_full", headers=wait, reason="queue_full")


def _of_late(_: DeadlineError) -> ApiError:
    return ApiError(504, "not judged within the deadline", code="deadline", reason="deadline")


def _of_closing(_: ClosingError) -> ApiError:
    wait = {"retry-after": str(_COME_BACK)}
    return ApiError(503, "the server is being stopped", code="closing", headers=wait, reason="closing")


_OF: tuple[tuple[type[Exception], Callable[[Any], ApiError]], ...] = (
    (HTTPException, _of_http),
    (RequestValidationError, _of_fields),
    (QueueFullError, _of_full),
    (DeadlineError, _of_late),
    (ClosingError, _of_closing),
    (RefusedError, lambda _: ApiError(400, "the guard's model does not take this text", code="refused_by_model")),
    (BackendError, lambda _: ApiError(502, "the guard's model failed", code="guard_failed")),
    (UsageError, lambda error: ApiError(400, str(error))),
)
