"""Dynamic batching before one guard: what arrives while it is busy is judged together next.

One thread judges. It takes what waits by itself, without a turn of the event loop between two batches, so that a guard
under load has no pauses. It also cuts long conversations into the pieces that the guard reads them in, and joins the
verdicts; what goes first is said in ``queue``. A batch that has begun is finished.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from libra_guard.errors import BackendError, LibraError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.windows import Windows
from libra_guard.records import Conversation, Verdict
from libra_guard.serve.queue import Manner, Order, Parts, Queue, Row

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


class TooMuchError(UsageError):
    """More at once than the queue ever takes."""


class DeadlineError(LibraError):
    """Not judged in time."""

    def __init__(self) -> None:
        super().__init__("not judged within the deadline")


class ClosingError(LibraError):
    """No more is taken."""

    def __init__(self) -> None:
        super().__init__("the server is being stopped")


_Outcome = Verdict | Exception


class Batcher:
    """Judges for many callers at once. To be made, called and closed in one event loop.

    Args:
        guard: Called in one thread only.
        name: Under which it is served.
        batch_size: Conversations that the guard is given at once, at most; a piece of a long one counts as one.
        batch_chars: Characters that they have together, at most. A longer conversation is judged in pieces, or alone
            where the guard does not cut it.
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
        self._wait, self._queue_size, self._queue_chars = wait, queue_size, queue_chars
        self._portion = min(batch_size, queue_size)
        self._waiting = Queue(batch_size=batch_size, batch_chars=batch_chars, multi_turn=guard.multi_turn)
        self._orders: set[Order] = set()
        """Those that somebody waits for."""
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

    def portions(self, conversations: Iterable[Conversation]) -> list[list[Conversation]]:
        """Cuts any number into what is soon taken where others wait too: at most a batch at once."""
        found: list[list[Conversation]] = []
        room = 0
        for one in conversations:
            length = self._waiting.length(one)
            if not found or length > room or len(found[-1]) == self._portion:
                found.append([])
                room = self._queue_chars
            found[-1].append(one)
            room -= length
        return found

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
            conversations: At most ``queue_size``, with ``queue_chars`` characters; see ``portions``.
            explain: See ``Guard.judge``.
            threshold: In place of the guard's own, for guards that give scores.
            deadline: By the event loop's clock.

        Raises:
            QueueFullError: They find no room.
            DeadlineError: The deadline passed first; what had not begun, of a long one too, is not judged.
            ClosingError: The batcher is closed.
            BackendError: The guard failed on one of them, also by itself, or its thread has ended.
            TooMuchError: They would find none in an empty queue either.
        """
        if not conversations:
            return []
        done: asyncio.Future[list[Verdict]] = self._loop.create_future()
        left = float("inf") if deadline is None else deadline - self._loop.time()
        order = Order(len(conversations), Manner(explain, threshold), time.monotonic() + left, done)
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

    def _admit(self, order: Order, conversations: Sequence[Conversation]) -> None:
        lengths = [self._waiting.length(one) for one in conversations]
        if (chars := sum(lengths)) > self._queue_chars:
            raise TooMuchError(f"{chars} characters are too many at once; {self._queue_chars} are taken")
        if len(lengths) > self._queue_size:
            raise TooMuchError(f"{len(lengths)} texts are too many at once; {self._queue_size} are taken")
        with self._changed:
            if self._dead:
                raise BackendError(_DEAD)
            if self._closing:
                raise ClosingError
            before = self._waiting.chars
            if len(self._waiting) + len(lengths) > self._queue_size or before + chars > self._queue_chars:
                raise QueueFullError(min(max(1.0, before * self._seconds_a_char), _LONGEST_RETRY))
            self._waiting.add(order, conversations, lengths)
            self._orders.add(order)
            self._changed.notify()
            self._metrics.queued(self._name, len(self._waiting))

    def _drop(self, order: Order) -> None:
        """Frees the places of an order that nobody waits for."""
        with self._changed:
            self._waiting.drop(order)
            self._metrics.queued(self._name, len(self._waiting))

    def _work(self) -> None:
        try:
            while batch := self._next():
                for rows in _calls(batch):
                    self._loop.call_soon_threadsafe(_deliver, self._judged(rows))
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

    def _next(self) -> list[Row]:
        """What is judged next, when there is something; empty at the end."""
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                self._fill()
                long = self._waiting.next_long()
                if long is None:
                    batch = self._take()
                    if batch or self._closing:
                        return batch
                    continue
            self._cut(long)

    def _fill(self) -> None:
        """Lets a batch wait for others, from when its first came."""
        while self._wait and self._waiting and not self._waiting.is_full and not self._closing:
            left = self._waiting.since + self._wait - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _take(self) -> list[Row]:
        batch = self._waiting.take()
        self._metrics.queued(self._name, len(self._waiting))
        return batch

    def _cut(self, row: Row) -> None:
        """Lets the pieces of a long conversation wait in its place. It waits, and may be dropped, until they do."""
        try:
            windows = self._guard.cut(row.conversation)
        except BaseException:
            # Judged whole it fails by itself, with its reason.
            windows = Windows([row.conversation])
        with self._changed:
            self._waiting.replace(row, windows)

    def _judged(self, rows: list[Row]) -> list[tuple[Row, _Outcome]]:
        """What is known now: of whole conversations all, of pieces what failed and what was the last to be judged."""
        began = time.monotonic()
        known = _known(self._guard, rows)
        took = time.monotonic() - began
        each = took / max(1, sum(row.share for row in rows))
        before = self._seconds_a_char or each
        self._seconds_a_char = _RECENT * each + (1 - _RECENT) * before
        try:
            self._metrics.judged(self._name, len(rows), took)
        except Exception:
            _log.exception("the metrics of a batch are lost")
        return known


def _calls(batch: list[Row]) -> list[list[Row]]:
    """The rows of each call of the guard. Pieces are last: whole ones, that are short, do not wait for them."""
    found = defaultdict[tuple[bool, Manner], list[Row]](list)
    for row in batch:
        found[row.parts is not None, row.order.manner].append(row)
    return [found[call] for call in sorted(found, key=lambda call: call[0])]


def _known(guard: Guard, rows: list[Row]) -> list[tuple[Row, _Outcome]]:
    """Judges rows of one manner, all of them whole or all of them pieces."""
    explain, threshold = rows[0].order.manner
    in_pieces = rows[0].parts is not None

    def judge(conversations: list[Conversation]) -> list[Verdict]:
        judging = _with_threshold(guard, threshold)
        return judging.judge_pieces(conversations) if in_pieces else judging.judge(conversations, explain=explain)

    known: list[tuple[Row, _Outcome]] = []
    for row, outcome in zip(rows, _outcomes(judge, [row.conversation for row in rows]), strict=True):
        if row.parts is None or isinstance(outcome, Exception):
            known.append((row, outcome))
        elif verdicts := row.parts.add(row.piece, outcome):
            known.append((row, _joined(guard, row, row.parts, verdicts)))
    return known


def _joined(guard: Guard, row: Row, parts: Parts, verdicts: list[Verdict]) -> _Outcome:
    """What the verdicts on the pieces of a conversation make."""
    explain, threshold = row.order.manner

    def join(whole: list[Conversation]) -> list[Verdict]:
        return _with_threshold(guard, threshold).join(whole, [parts.windows], verdicts, explain=explain)

    return _outcomes(join, [parts.conversation])[0]


def _outcomes(
    judge: Callable[[list[Conversation]], list[Verdict]], conversations: list[Conversation]
) -> list[_Outcome]:
    """What each comes to."""
    try:
        verdicts = judge(conversations)
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
    return [outcome for one in conversations for outcome in _outcomes(judge, [one])]


def _with_threshold(guard: Guard, threshold: float | None) -> Guard:
    if threshold is None:
        return guard
    changed = copy.copy(guard)
    changed.threshold, changed.question_threshold = threshold, None
    return changed


def _deliver(known: list[tuple[Row, _Outcome]]) -> None:
    """Hands over what was judged; in the event loop."""
    for row, outcome in known:
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
