"""How many may ask, how much a client may send, how long it may take, and what happens when it goes away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libra_guard.serve.errors import COME_BACK, ApiError, error_response

if TYPE_CHECKING:
    from libra_guard.serve.metrics import Metrics

HUNG_UP = "libra.hung_up"
"""Key of the scope: set where the client went away before its answer."""


class RequestLimit:
    """Answers 503 where as many requests as may be are under way: each takes memory for its body and its answer.

    What lies beside the API is answered at once, and counts for nothing: probes are to hear from a busy server too.
    """

    def __init__(self, app: ASGIApp, *, most: int, metrics: Metrics) -> None:
        self._app, self._most, self._metrics = app, most, metrics
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        if self._count >= self._most:
            self._metrics.rejected("requests")
            wait = {"retry-after": str(COME_BACK)}
            error = ApiError(503, "too many requests are under way", code="too_many_requests", headers=wait)
            await error_response(error)(scope, receive, send)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1


class BodyLimit:
    """Answers 413 to a body that is too long, at once where its length is told, and 408 to one that comes too slowly.

    What a client goes on to send after that is read and dropped by the HTTP server, so that it comes to the answer.
    """

    def __init__(self, app: ASGIApp, *, most: int, seconds: float, metrics: Metrics) -> None:
        self._app, self._most, self._seconds, self._metrics = app, most, seconds, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told[:20]) > self._most:
            self._metrics.rejected("body_size")
            await error_response(self._too_long())(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        size, over = 0, False

        async def limited() -> Message:
            nonlocal size, over
            if over:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            size += len(message.get("body", b""))
            if size > self._most:
                raise self._too_long()
            over = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)

    def _too_long(self) -> ApiError:
        return ApiError(413, f"the body is longer than {self._most:,} bytes", code="body_too_long", reason="body_size")

    def _too_slow(self) -> ApiError:
        message = f"the body did not come within {self._seconds:g} s"
        # The rest of the body would be read as the next request.
        close = {"connection": "close"}
        return ApiError(408, message, code="body_too_slow", headers=close, reason="body_time")


class HangUp:
    """Cancels a request when its client goes away: what it waits for need not be done."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = asyncio.current_task()
        assert request is not None
        watch: asyncio.Task[Message] | None = None
        answered = False

        def gone(watching: asyncio.Task[Message]) -> None:
            if not (watching.cancelled() or answered):
                scope[HUNG_UP] = True
                request.cancel()

        async def watched() -> Message:
            nonlocal watch
            if watch is not None:
                return await asyncio.shield(watch)
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                # After the body there is nothing to receive but that the client has gone.
                watch = asyncio.ensure_future(receive())
                watch.add_done_callback(gone)
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, watched, noted)
        except asyncio.CancelledError:
            if not scope.get(HUNG_UP):
                raise
            request.uncancel()
        finally:
            if watch is not None:
                watch.cancel()
