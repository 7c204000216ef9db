"""Dynamic batching before one guard: what arrives while it is busy is judged together next.

One thread judges. It takes what waits by itself, without a turn of the event loop between two batches, so that a guard
under load has no pauses.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from libra_guard.errors import BackendError, LibraError
from libra_guard.guards.base import Guard
from libra_guard.records import Conversation, Verdict

if TYPE_CHECKING:
    from libra_guard.serve.metrics import Metrics

_log = logging.getLogger(__name__)
_LONGEST_RETRY = 60.0
_RECENT = 0.2
"""Weight of the newest batch in the measured rate."""


class QueueFullError(LibraError):
    """Too much waits already."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full for about {retry_after:.0f} s")
        self.retry_after = retry_after
        """Seconds until what waits now is judged, as the guard went lately."""


class DeadlineError(LibraError):
    """Not judged in time."""

    def __init__(self) -> None:
        super().__init__("not judged within the deadline")


class ClosingError(LibraError):
    """No more is taken."""

    def __init__(self) -> None:
        super().__init__("the server is being stopped")


class _Manner(NamedTuple):
    """What conversations must share to be judged in one call."""

    explain: bool
    threshold: float | None


class _Order:
    """What one caller waits for."""

    def __init__(self, count: int, manner: _Manner, expires: float, done: asyncio.Future[list[Verdict]]) -> None:
        self.manner, self.expires, self.done = manner, expires, done
        self.verdicts: list[Verdict | None] = [None] * count
        self.missing = count
        self.since = time.monotonic()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.done.done() and time.monotonic() < self.expires


class _Row(NamedTuple):
    order: _Order
    place: int
    conversation: Conversation


_Outcome = Verdict | Exception


class Batcher:
    """Judges for many callers at once. To be made, called and closed in one event loop.

    Args:
        guard: Called in one thread only.
        name: Under which it is served.
        batch_size: Conversations that the guard is given at once, at most.
        wait: Seconds that a batch waits to fill while the guard is idle.
        queue_size: Conversations that may wait.
        metrics: Told of depth, sizes and times.
    """

    def __init__(
        self, guard: Guard, *, name: str, batch_size: int, wait: float, queue_size: int, metrics: Metrics
    ) -> None:
        self._guard, self._name, self._metrics = guard, name, metrics
        self._batch_size, self._wait, self._queue_size = batch_size, wait, queue_size
        self._waiting: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_each = 0.0
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"libra-guard-{name}", daemon=True)
        self._thread.start()

    async def judge(
        self,
        conversation: Conversation,
        *,
        explain: bool = False,
        threshold: float | None = None,
        deadline: float | None = None,
    ) -> Verdict:
        """One verdict; see ``judge_all``."""
        return (await self.judge_all([conversation], explain=explain, threshold=threshold, deadline=deadline))[0]

    async def judge_all(
        self,
        conversations: Sequence[Conversation],
        *,
        explain: bool = False,
        threshold: float | None = None,
        deadline: float | None = None,
    ) -> list[Verdict]:
        """Verdicts in order. They are taken whole or not at all; a caller that is cancelled frees its places.

        Args:
            conversations: At most ``queue_size``, for more are never taken.
            explain: See ``Guard.judge``.
            threshold: In place of the guard's own, for guards that give scores.
            deadline: By the event loop's clock.

        Raises:
            QueueFullError: They find no room.
            DeadlineError: The deadline passed first; what had not begun is not judged.
            ClosingError: The batcher is closed.
            BackendError: The guard failed on one of them, also by itself.
        """
        if not conversations:
            return []
        done: asyncio.Future[list[Verdict]] = self._loop.create_future()
        left = float("inf") if deadline is None else deadline - self._loop.time()
        order = _Order(len(conversations), _Manner(explain, threshold), time.monotonic() + left, done)
        self._admit([_Row(order, i, one) for i, one in enumerate(conversations)])
        alarm = None if deadline is None else self._loop.call_at(deadline, _fail, done, DeadlineError())
        try:
            return await done
        finally:
            if alarm is not None:
                alarm.cancel()
            if order.missing:
                self._drop(order)

    async def close(self) -> None:
        """Takes no more, and returns when all that waits is judged."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.shield(self._ended)
        self._thread.join()

    def _admit(self, rows: list[_Row]) -> None:
        with self._changed:
            if self._closing:
                raise ClosingError
            if len(self._waiting) + len(rows) > self._queue_size:
                raise QueueFullError(min(max(1.0, len(self._waiting) * self._seconds_each), _LONGEST_RETRY))
            self._waiting.extend(rows)
            self._changed.notify()
            self._metrics.queued(self._name, len(self._waiting))

    def _drop(self, order: _Order) -> None:
        """Frees the places of an order that nobody waits for."""
        with self._changed:
            self._waiting = deque(row for row in self._waiting if row.order is not order)
            self._metrics.queued(self._name, len(self._waiting))

    def _work(self) -> None:
        while batch := self._next():
            for manner in dict.fromkeys(row.order.manner for row in batch):
                rows = [row for row in batch if row.order.manner == manner]
                outcomes = self._judged(rows, manner)
                self._loop.call_soon_threadsafe(_deliver, rows, outcomes)
        self._loop.call_soon_threadsafe(self._ended.set_result, None)

    def _next(self) -> list[_Row]:
        """What is judged next, when there is something; empty at the end."""
        with self._changed:
            while True:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                self._fill()
                batch = self._take()
                if batch or self._closing:
                    return batch

    def _fill(self) -> None:
        """Lets a batch wait for others, from when its first came."""
        while self._wait and self._waiting and len(self._waiting) < self._batch_size and not self._closing:
            left = self._waiting[0].order.since + self._wait - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _take(self) -> list[_Row]:
        batch: list[_Row] = []
        while self._waiting and len(batch) < self._batch_size:
            row = self._waiting.popleft()
            if row.order.is_wanted:
                batch.append(row)
        self._metrics.queued(self._name, len(self._waiting))
        return batch

    def _judged(self, rows: list[_Row], manner: _Manner) -> list[_Outcome]:
        began = time.monotonic()
        guard = self._guard if manner.threshold is None else _with_threshold(self._guard, manner.threshold)
        outcomes = _outcomes(guard, [row.conversation for row in rows], manner.explain)
        took = time.monotonic() - began
        each = took / len(rows)
        self._seconds_each = each if not self._seconds_each else _RECENT * each + (1 - _RECENT) * self._seconds_each
        self._metrics.judged(self._name, len(rows), took)
        return outcomes


def _outcomes(guard: Guard, conversations: list[Conversation], explain: bool) -> list[_Outcome]:
    try:
        verdicts = guard.judge(conversations, explain=explain)
        if len(verdicts) != len(conversations):
            raise BackendError(f"{len(verdicts)} verdicts on {len(conversations)} conversations")
        return [*verdicts]
    except Exception as error:
        if len(conversations) == 1:
            if not isinstance(error, LibraError):
                _log.exception("the guard failed")
                error = BackendError(f"the guard failed: {type(error).__name__}")
            return [error]
    # One that cannot be judged is not to cost the others their verdicts.
    return [outcome for one in conversations for outcome in _outcomes(guard, [one], explain)]


def _with_threshold(guard: Guard, threshold: float) -> Guard:
    changed = copy.copy(guard)
    changed.threshold, changed.question_threshold = threshold, None
    return changed


def _deliver(rows: list[_Row], outcomes: list[_Outcome]) -> None:
    """Hands over what was judged; in the event loop."""
    for (order, place, _), outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, Exception):
            _fail(order.done, outcome)
            continue
        order.verdicts[place] = outcome
        order.missing -= 1
        if not order.missing and not order.done.done():
            order.done.set_result([v for v in order.verdicts if v is not None])


def _fail(done: asyncio.Future[list[Verdict]], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
