"""Who may ask: with an API key; without keys, on this machine, by its own names; from web pages of which origins.

A key comes as ``Authorization: Bearer``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from libra_guard.serve.errors import ApiError, error_response

if TYPE_CHECKING:
    from libra_guard.serve.metrics import Metrics

_OPEN = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
_OPEN_UNDER = "/web/"
"""The page and its files, like the API's description, are the same for everybody and tell nothing of anybody's texts.

``/metrics`` is not open: Prometheus sends a key too (``authorization: credentials_file``).
"""
_PORT = re.compile(r":\d*$")


class ApiKeys:
    """Answers 401 to who has no key.

    Keys are compared by digests of one length, in a time that tells neither how much of a key was right nor which.

    Args:
        app: What is behind.
        keys: At least one.
        metrics: Told of who was turned away.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"")
            kind, _, key = given.partition(b" ")
            if kind.lower() != b"bearer" or not self._is_known(key.strip()):
                self._metrics.rejected("key")
                message = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
                challenge = {"www-authenticate": "Bearer"}
                error = ApiError(401, message, code="invalid_api_key", headers=challenge)
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, key: bytes) -> bool:
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, _digest(key))
        return found


class OwnNames:
    """Answers 400 to what is addressed to another host than this one.

    A web page of anywhere may let its own name point to 127.0.0.1 (DNS rebinding). A browser then takes this server for
    a part of that page and lets it ask, but tells by which name.

    Args:
        app: What is behind.
        names: That the server goes by.
        metrics: Told of what was turned away.
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            host = _PORT.sub("", dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower())
            # Every browser names one.
            if host and host.strip("[]") not in self._names:
                self._metrics.rejected("host")
                message = "this server does not go by the name in the Host header; LIBRA_SERVE_HOSTS adds names"
                await error_response(ApiError(400, message, code="unknown_host"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Origins(CORSMiddleware):
    """Lets web pages of other origins ask; says no in the shape of every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """See ``CORSMiddleware``, which says no as plain text."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        message = f"{bytes(response.body).decode()}; LIBRA_SERVE_CORS_ORIGINS names the pages that may ask"
        about_body = ("content-length", "content-type")
        headers = {name: value for name, value in response.headers.items() if name not in about_body}
        return error_response(ApiError(response.status_code, message, code="cors_refused", headers=headers))


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in _OPEN or path.startswith(_OPEN_UNDER)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
