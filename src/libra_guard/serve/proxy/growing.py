"""A text of a stream on its way: fed as it arrives, decided upon as it is judged."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing

from libra_guard.errors import LibraError
from libra_guard.serve.errors import ApiError
from libra_guard.serve.proxy.answer import ANSWER_FIELDS, HALF_A_CHARACTER, worst
from libra_guard.serve.proxy.calls import CALLS
from libra_guard.serve.proxy.judging import ROUTE, Exchange
from libra_guard.serve.proxy.upstream import UpstreamError
from libra_guard.serve.state import Judged
from libra_guard.serve.streaming import FLUSH, Stopped, guarded


class Growing:
    """One text of one choice of a stream, judged while it grows.

    Args:
        exchange: Judges.
        changed: Set whenever something has been decided.
        field: Of the message.
    """

    def __init__(self, exchange: Exchange, changed: asyncio.Event, field: str) -> None:
        self.field = field
        self.worst: Judged | None = None
        """The strictest decision so far."""
        self.stopped: Judged | None = None
        self.received = 0
        """Characters."""
        self.due = 0
        """Characters without the white space at their end, which shows nothing and need not wait."""
        self.released = 0
        """Characters that may be sent."""
        self._flushed = -math.inf
        self._half = False
        self._piece = exchange.server.settings.stream.hold_chars
        self._chunks: asyncio.Queue[str | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._judge(exchange, changed))

    @property
    def answers(self) -> bool:
        """Whether the choice is blocked with it."""
        return self.field in (*ANSWER_FIELDS, CALLS)

    @property
    def waiting(self) -> int:
        """Characters that are not decided upon."""
        return 0 if self._task.done() else self.received - self.released

    def feed(self, text: str) -> None:
        """Takes what comes next."""
        # Halves of a surrogate pair, in two chunks, are one character.
        self.received += len(text) - (self._half and "\udc00" <= text[0] <= "\udfff")
        self._half = "\ud800" <= text[-1] < "\udc00"
        if shown := text.rstrip():
            self.due = self.received - (len(text) - len(shown))
        if self._task.done():
            return
        # In pieces: the windows that one opens are judged together, and must find room in the guard's queue.
        for start in range(0, len(text), self._piece):
            self._chunks.put_nowait(text[start : start + self._piece])

    def flush(self) -> None:
        """What has come is judged as it is; seldom, for each time the sentence that it cuts is judged again."""
        if self.received - self._flushed >= self._piece // 4:
            self._flushed = self.received
            self._chunks.put_nowait(FLUSH)

    def end(self) -> None:
        """Nothing follows."""
        self._chunks.put_nowait(None)

    def covers(self, position: float) -> bool:
        """Whether it is decided what becomes of the text up to there; ``inf`` stands for all of it.

        Raises:
            LibraError: It could not be judged.
            UpstreamError: It cannot be judged.
        """
        if self.released >= position:
            return True
        if self._task.done() and self.stopped is None:
            self._task.result()
        return self._task.done()

    def close(self) -> asyncio.Task[None]:
        """Judges no further; what is to be waited for."""
        self._task.cancel()
        return self._task

    async def _judge(self, exchange: Exchange, changed: asyncio.Event) -> None:
        guard = exchange.server.guard(exchange.policy).guard
        try:
            async with aclosing(
                guarded(
                    exchange.server,
                    exchange.asked.context,
                    self._fed(),
                    multi_turn=guard.multi_turn,
                    policy=exchange.policy,
                    route=ROUTE,
                    request_id=exchange.request_id,
                )
            ) as parts:
                async for part in parts:
                    self.worst = worst([one for one in (self.worst, part.judged) if one])
                    if isinstance(part, Stopped):
                        self.stopped = part.judged
                    else:
                        self.released = part.end
                    changed.set()
        except ValueError:
            raise UpstreamError("garbage", HALF_A_CHARACTER) from None
        except (LibraError, ApiError) as error:
            if not exchange.tolerates(error, self.field):
                raise
        finally:
            changed.set()

    async def _fed(self) -> AsyncIterator[str]:
        while (text := await self._chunks.get()) is not None:
            yield text
