"""The HTTP server's connections, with bounds that uvicorn lacks: on a request's head, and on a client that stalls."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 20.0
HEAD_BYTES = 1 << 16
WRITE_SECONDS = 60.0
BACKLOG_LOOKS = 5
"""A client may take so many times ``WRITE_SECONDS`` for what waits for it, if it takes some of it in each."""


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closes a connection on which a head does not come in time, or has no end.

    The same goes for what a client sends on after its request was answered with an error, and for a client that takes
    nothing of its answer, or too little: what waits for it, in an upstream too, would else be kept for as long as it
    likes.
    """

    head_seconds = HEAD_SECONDS
    write_seconds = WRITE_SECONDS
    timeout_keep_alive_task: asyncio.TimerHandle | None
    _alarm: asyncio.TimerHandle | None = None
    _head = 0
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        # Writing is paused, and this looked after, whenever the system does not take all at once.
        transport.set_write_buffer_limits(0)
        self._set_alarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._clear_alarm()
        self._end_stall()
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

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        super().pause_writing()
        self._see_progress(math.inf, BACKLOG_LOOKS)

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._end_stall()
        super().resume_writing()

    def _see_progress(self, before: float, looks: int) -> None:
        left = self.transport.get_write_buffer_size()
        if looks and left < before:
            self._stall = self.loop.call_later(self.write_seconds, self._see_progress, left, looks - 1)
        else:
            # Closing would first wait until all is taken.
            self.transport.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _set_alarm(self) -> None:
        if self._alarm is None:
            self._alarm = self.loop.call_later(self.head_seconds, self.transport.close)

    def _clear_alarm(self) -> None:
        self._head = 0
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
