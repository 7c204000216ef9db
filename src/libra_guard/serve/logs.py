"""Logs as JSON, a line an event, on stderr; and the outermost layer of the application, which writes one a request.

No line holds a user's text: neither bodies nor queries, and of an unforeseen error its kind and where it arose, not its
message, which may quote one (``log_text`` adds it).
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
import time
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libra_guard.records import as_json
from libra_guard.serve.errors import api_error, error_response
from libra_guard.serve.limits import HUNG_UP

if TYPE_CHECKING:
    from libra_guard.serve.metrics import Metrics

ACCESS = "libra_guard.access"
_log = logging.getLogger(ACCESS)
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_GOOD_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines; logged where they fail."""
_LONGEST_PATH = 200
_NEWS = ("Waiting for connections", " died", "Received SIGHUP", "number of processes")
"""In messages of uvicorn's that are logged though they are no warnings."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Args:
        text: Whether messages of unforeseen errors are written.
    """

    def __init__(self, *, text: bool = False) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _request_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line["error"] = type(error).__name__
            line["at"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
            if self._text:
                line["error_message"] = str(error)
        told = as_json({k: v for k, v in line.items() if v is not None}, ensure_ascii=False)
        # A lone surrogate becomes its escape, which is one in JSON too.
        return told.encode("utf-8", "backslashreplace").decode()


def set_up(*, text: bool = False) -> None:
    """Sends every log of this process, the HTTP server's too, to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(text=text))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    # A line a request of our own has more in it; an HTTP client's would have the upstream's address with its query.
    for name in ("uvicorn.access", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Requests:
    """Names each request, times and logs it, and answers what nobody foresaw with 500.

    A client may name its request itself (``x-request-id``); the name is in the answer either way.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        name = _name(scope)
        scope.setdefault("state", {})["request_id"] = name
        token = _request_id.set(name)
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            _log.exception("unforeseen error")
            if status:
                # The answer has begun: that it is broken off is all that can still be said.
                raise
            await error_response(api_error(error))(scope, receive, named)
        finally:
            status = status if status and not scope.get(HUNG_UP) else 499
            self._metrics.request(scope, status, time.perf_counter() - began)
            _tell(scope, status, time.perf_counter() - began)
            _request_id.reset(token)


def _is_news(record: logging.LogRecord) -> bool:
    """Leaves out the HTTP server's steps of starting and stopping; that it waits, or lost a worker, is news."""
    return record.levelno > logging.INFO or any(word in record.getMessage() for word in _NEWS)


def _tell(scope: Scope, status: int, seconds: float) -> None:
    if scope["path"] in _QUIET and status < 400:
        return
    path = scope["path"][:_LONGEST_PATH]
    fields = {"method": scope["method"], "path": path, "status": status, "ms": round(seconds * 1000, 2)}
    _log.info("request", extra={"fields": fields})


def _name(scope: Scope) -> str:
    given = next((value for key, value in scope["headers"] if key == b"x-request-id"), b"").decode("latin-1")
    return given if _GOOD_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
