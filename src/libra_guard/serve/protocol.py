"""The HTTP server's connections, with bounds on a request's head, which uvicorn has none for."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 20.0
HEAD_BYTES = 1 << 16


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closes a connection on which a head does not come in time, or has no end.

    The same goes for what a client sends on after its request was answered with an error.
    """

    head_seconds = HEAD_SECONDS
    timeout_keep_alive_task: asyncio.TimerHandle | None
    _alarm: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        self._set_alarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._clear_alarm()
        super().connection_lost(exc)
        # uvicorn leaves the timer of one that was reset, and with it the whole last request, until it fires.
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._clear_alarm()
        elif before is None or before.response_complete:
            self._set_alarm()
            self._head += len(data)
            if (before is None or not before.more_body) and self._head > HEAD_BYTES:
                self.transport.close()

    def _set_alarm(self) -> None:
        if self._alarm is None:
            self._alarm = self.loop.call_later(self.head_seconds, self.transport.close)

    def _clear_alarm(self) -> None:
        self._head = 0
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
