"""Dynamic batching before one guard: what arrives while it is busy is judged together next.

One thread judges. It takes what waits by itself, without a turn of the event loop between two batches, so that a guard
under load has no pauses.

Who asks for much does not keep others waiting for all of it: requests share the guard by characters, as if it went
through all of them side by side, and what would be done first then is taken first (fair queueing; Demers, Keshav and
Shenker 1989, "Analysis and Simulation of a Fair Queueing Algorithm"). So a short text goes before long ones that have
not begun, and a long one waits for as many characters of others, however many come, as others would get beside it.
What has begun is finished.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from libra_guard.errors import BackendError, LibraError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.records import Conversation, Verdict

if TYPE_CHECKING:
    from libra_guard.serve.metrics import Metrics

_log = logging.getLogger(__name__)
_LONGEST_RETRY = 60.0
_RECENT = 0.2
"""Weight of the newest batch in the measured rate."""
_DEAD = "the guard's thread has ended; the server needs a restart"


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
    chars: int
    """That the guard reads."""
    turn: float
    """The lowest is judged first: the share of each request, in characters, at which it would be done."""


_Outcome = Verdict | Exception


class Batcher:
    """Judges for many callers at once. To be made, called and closed in one event loop.

    Args:
        guard: Called in one thread only.
        name: Under which it is served.
        batch_size: Conversations that the guard is given at once, at most.
        batch_chars: Characters that they have together, at most; a longer one is judged alone.
        wait: Seconds that a batch waits to fill while the guard is idle.
        queue_size: Conversations that may wait.
        queue_chars: Characters that they may have together.
        metrics: Told of depth, sizes and times.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        name: str,
        batch_size: int,
        batch_chars: int,
        wait: float,
        queue_size: int,
        queue_chars: int,
        metrics: Metrics,
    ) -> None:
        self._guard, self._name, self._metrics = guard, name, metrics
        self._batch_size, self._batch_chars, self._wait = batch_size, batch_chars, wait
        self._queue_size, self._queue_chars = queue_size, queue_chars
        self._waiting: list[_Row] = []
        """By their turns."""
        self._orders: set[_Order] = set()
        """Those that somebody waits for."""
        self._share = 0.0
        """Characters that each request that waited all the time would have had so far."""
        self._changed = threading.Condition()
        self._closing = self._dead = False
        self._seconds_a_char = 0.0
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"libra-guard-{name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it judges; False where its thread has ended by itself."""
        return not self._dead

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
            BackendError: The guard failed on one of them, also by itself, or its thread has ended.
            UsageError: They have more than ``queue_chars`` characters together.
        """
        if not conversations:
            return []
        done: asyncio.Future[list[Verdict]] = self._loop.create_future()
        left = float("inf") if deadline is None else deadline - self._loop.time()
        order = _Order(len(conversations), _Manner(explain, threshold), time.monotonic() + left, done)
        self._admit(order, conversations)
        alarm = None if deadline is None else self._loop.call_at(deadline, _fail, done, DeadlineError())
        try:
            return await done
        finally:
            if alarm is not None:
                alarm.cancel()
            self._orders.discard(order)
            if order.missing:
                self._drop(order)

    async def close(self) -> None:
        """Takes no more, and returns when all that waits is judged."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.shield(self._ended)
        self._thread.join()

    def _admit(self, order: _Order, conversations: Sequence[Conversation]) -> None:
        lengths = [_chars(one, self._guard.multi_turn) for one in conversations]
        if (chars := sum(lengths)) > self._queue_chars:
            raise UsageError(f"{chars} characters are too many at once; {self._queue_chars} are taken")
        with self._changed:
            if self._dead:
                raise BackendError(_DEAD)
            if self._closing:
                raise ClosingError
            before = sum(row.chars for row in self._waiting)
            if len(self._waiting) + len(lengths) > self._queue_size or before + chars > self._queue_chars:
                raise QueueFullError(min(max(1.0, before * self._seconds_a_char), _LONGEST_RETRY))
            turns = accumulate(lengths, initial=self._share)
            next(turns)
            rows = zip(conversations, lengths, turns, strict=True)
            self._waiting += [_Row(order, i, *row) for i, row in enumerate(rows)]
            self._waiting.sort(key=attrgetter("turn"))
            self._orders.add(order)
            self._changed.notify()
            self._metrics.queued(self._name, len(self._waiting))

    def _drop(self, order: _Order) -> None:
        """Frees the places of an order that nobody waits for."""
        with self._changed:
            self._waiting = [row for row in self._waiting if row.order is not order]
            self._metrics.queued(self._name, len(self._waiting))

    def _work(self) -> None:
        try:
            while batch := self._next():
                for manner in dict.fromkeys(row.order.manner for row in batch):
                    rows = [row for row in batch if row.order.manner == manner]
                    self._loop.call_soon_threadsafe(_deliver, rows, self._judged(rows, manner))
        except BaseException:
            _log.critical("guard %s: %s", self._name, _DEAD, exc_info=True)
            self._dead = True
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        """Nothing more is judged; in the event loop."""
        for order in self._orders:
            _fail(order.done, BackendError(_DEAD))
        self._ended.set_result(None)

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
        while self._wait and self._waiting and not self._is_full() and not self._closing:
            left = min(row.order.since for row in self._waiting) + self._wait - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _is_full(self) -> bool:
        """Whether what waits makes a batch."""
        chars = sum(row.chars for row in self._waiting)
        return len(self._waiting) >= self._batch_size or chars >= self._batch_chars

    def _take(self) -> list[_Row]:
        """The first rows that fit into a batch, at least one."""
        batch: list[_Row] = []
        chars = 0
        wanted = [row for row in self._waiting if row.order.is_wanted]
        for row in wanted[: self._batch_size]:
            if batch and chars + row.chars > self._batch_chars:
                break
            batch.append(row)
            chars += row.chars
        self._share += chars / max(1, len({row.order for row in wanted}))
        self._waiting = wanted[len(batch) :]
        self._metrics.queued(self._name, len(self._waiting))
        return batch

    def _judged(self, rows: list[_Row], manner: _Manner) -> list[_Outcome]:
        began = time.monotonic()
        outcomes = _outcomes(self._guard, [row.conversation for row in rows], manner)
        took = time.monotonic() - began
        each = took / sum(row.chars for row in rows)
        before = self._seconds_a_char or each
        self._seconds_a_char = _RECENT * each + (1 - _RECENT) * before
        try:
            self._metrics.judged(self._name, len(rows), took)
        except Exception:
            _log.exception("the metrics of a batch are lost")
        return outcomes


def _outcomes(guard: Guard, conversations: list[Conversation], manner: _Manner) -> list[_Outcome]:
    try:
        judging = guard if manner.threshold is None else _with_threshold(guard, manner.threshold)
        verdicts = judging.judge(conversations, explain=manner.explain)
        if len(verdicts) != len(conversations):
            raise BackendError(f"{len(verdicts)} verdicts on {len(conversations)} conversations")
        return [*verdicts]
    # A panic of a library in Rust is a BaseException. It fails its row, as any other error does.
    except BaseException as error:
        if len(conversations) == 1:
            if isinstance(error, LibraError):
                return [error]
            _log.exception("the guard failed")
            return [BackendError(f"the guard failed: {type(error).__name__}")]
    # One that cannot be judged is not to cost the others their verdicts.
    return [outcome for one in conversations for outcome in _outcomes(guard, [one], manner)]


def _chars(conversation: Conversation, multi_turn: bool) -> int:
    if multi_turn:
        return max(1, sum(len(message.content) for message in conversation.messages))
    return max(1, len(conversation.question) + len(conversation.response or ""))


def _with_threshold(guard: Guard, threshold: float) -> Guard:
    changed = copy.copy(guard)
    changed.threshold, changed.question_threshold = threshold, None
    return changed


def _deliver(rows: list[_Row], outcomes: list[_Outcome]) -> None:
    """Hands over what was judged; in the event loop."""
    for row, outcome in zip(rows, outcomes, strict=True):
        order = row.order
        if isinstance(outcome, Exception):
            _fail(order.done, outcome)
            continue
        order.verdicts[row.place] = outcome
        order.missing -= 1
        if not order.missing and not order.done.done():
            order.done.set_result([v for v in order.verdicts if v is not None])


def _fail(done: asyncio.Future[list[Verdict]], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
