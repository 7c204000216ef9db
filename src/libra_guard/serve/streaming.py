"""A growing answer, released as it is judged: the clock and the tasks around ``AnswerWindows``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from libra_guard.policy.profile import Action
from libra_guard.predict.arrivals import Arrivals
from libra_guard.predict.stream import AnswerWindows, SecondLooks, StreamSettings, Window
from libra_guard.records import Conversation, Message
from libra_guard.serve.batcher import QueueFullError
from libra_guard.serve.state import Judged, Server

_AHEAD = 4
"""Upstream is read on while less than so many times ``hold_chars`` wait to be released."""
FLUSH = ""
"""Among the chunks of an answer: what has come is judged as it is, as if it had waited."""
Decide = Callable[..., Awaitable[list[Judged]]]
"""``Server.decide_all`` or ``decide_patiently``, with its options but ``part`` and ``passages``."""


class Released(NamedTuple):
    """Text that may be sent now."""

    text: str
    start: int
    end: int
    """It is ``answer[start:end]``."""
    judged: Judged | None
    """None where the text shows nothing, white space alone: there was nothing to judge."""
    delay: float
    """Seconds since its first character arrived."""


class Stopped(NamedTuple):
    """The answer's end: from ``start`` on it must not be sent."""

    judged: Judged
    start: int
    end: int


async def guarded(
    server: Server,
    question: str | Sequence[Message],
    chunks: AsyncIterator[str],
    *,
    settings: StreamSettings | None = None,
    multi_turn: bool = False,
    **options: Any,
) -> AsyncGenerator[Released | Stopped]:
    """Releases an answer's text in order, part by part, each after it was judged; ends with the first that is blocked.

    While windows are judged, further text is read; the windows that it opens are judged together. Text that has
    waited for ``hold_ms`` is judged as it is. The memory taken is bounded, whatever the upstream's rate: it is not
    read on while too much waits, or while the caller does not ask for more.

    Args:
        server: Judges and decides.
        question: What was asked, or all messages before the answer; see ``AnswerWindows``.
        chunks: The answer's text as it arrives, and ``FLUSH``. Closed, if it can be, when this generator is: use
            ``aclosing``.
        settings: How to cut; by default the server's.
        multi_turn: Whether the guard reads earlier messages.
        options: As of ``Server.decide_all``: guard, policy, route, request_id.

    Raises:
        ValueError: A text holds a lone surrogate, or the question cannot be judged.
        QueueFullError: The guard's queue was full until the deadline; before that, windows wait.
        DeadlineError: A verdict came too late.
        BackendError: The guard failed.
        Exception: Of ``chunks``, after what had arrived was judged and released.
    """
    settings = settings or server.settings.stream
    held = _Held(AnswerWindows(question, settings, multi_turn=multi_turn), settings)
    decide = partial(decide_patiently, server, question=held.windows.asked, **options)
    reading: asyncio.Task[str | None] | None = None
    judging: asyncio.Task[list[Judged | None]] | None = None
    batch: list[Window] = []
    try:
        while True:
            if not reading and held.wants_more:
                reading = asyncio.create_task(_next(chunks))
            if not judging and held.opened:
                size = min(server.settings.batch_size, server.settings.queue_size)
                batch, held.opened = held.opened[:size], held.opened[size:]
                judging = asyncio.create_task(judge_windows(decide, batch, answer=held.windows, at_once=size))
            running = [task for task in (reading, judging) if task]
            if not running:
                break
            # What is pending cannot be released before what is judged now: it may grow until then.
            patience = None if judging else held.patience()
            await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if reading and reading.done():
                held.take(reading)
                reading = None
            elif held.patience() == 0:
                held.flush()
            if judging and judging.done():
                decided = list(zip(batch, judging.result(), strict=False))
                # Now: between two parts the caller takes its time.
                for window, one in decided:
                    server.metrics.window(late := held.arrivals.since(window.end - 1))
                    if one and one.decision.action is Action.BLOCK:
                        server.metrics.first_hit(late)
                for window, one in decided:
                    if one and one.decision.action is Action.BLOCK:
                        yield Stopped(one, window.start, window.end)
                        return
                    delay = held.arrivals.since(window.start)
                    if window.start == 0:
                        server.metrics.first_text(delay)
                    held.arrivals.release(window.end)
                    yield Released(window.text, window.start, window.end, one, delay)
                judging = None
        if held.failure:
            raise held.failure
    finally:
        await _close([task for task in (reading, judging) if task], chunks)


async def judge_windows(
    decide: Decide, windows: Sequence[Window], *, answer: AnswerWindows, at_once: int
) -> list[Judged | None]:
    """Decides upon windows together; then, by ``AnswerWindows.again``, once more upon some of those that passed.

    Args:
        decide: Judges and decides.
        windows: Of one answer, in order; at most ``at_once``.
        answer: Whose windows they are; has the second looks, and notes for the verdicts.
        at_once: So many find room in the queue together.

    Returns:
        One for each window up to the first that is blocked; of several looks at a window the worst one. None where a
        window holds nothing to judge.

    Raises:
        LibraError: Of ``decide``.
    """
    seen = [window for window in windows if window.conversation]
    passages = [around.messages[-1].content for w in seen if (around := w.context or w.conversation)]
    first = [w.conversation for w in seen if w.conversation]
    judged = await decide(first, part="window", passages=passages) if seen else []
    blocked = next((i for i, one in enumerate(judged) if one.decision.action is Action.BLOCK), len(judged))
    passed = [one.verdict if one.decision.would is not Action.BLOCK else None for one in judged[:blocked]]
    again = [answer.again(*one) for one in zip(seen, passed, strict=False)]
    for part in SecondLooks._fields:
        looks = [(i, look) for i, one in enumerate(again) for look in getattr(one, part)]
        for start in range(0, len(looks), at_once):
            some = looks[start : start + at_once]
            for (i, _), one in zip(some, await decide([look for _, look in some], part=part), strict=True):
                judged[i] = max(judged[i], one, key=lambda one: one.gravity)
    found = iter(judged)
    decided: list[Judged | None] = []
    for window in windows:
        decided.append(_noted(next(found), answer.notes) if window.conversation else None)
        if (last := decided[-1]) and last.decision.action is Action.BLOCK:
            break
    return decided


async def decide_patiently(
    server: Server, conversations: Sequence[Conversation], *, deadline: float | None = None, **options: Any
) -> list[Judged]:
    """``Server.decide_all`` for what is already under way: waits for room in the queue until the deadline."""
    loop = asyncio.get_running_loop()
    if deadline is None:
        deadline = loop.time() + server.settings.deadline_ms / 1000
    while True:
        try:
            return await server.decide_all(conversations, deadline=deadline, **options)
        except QueueFullError as error:
            if loop.time() + error.retry_after > deadline:
                raise
            await asyncio.sleep(error.retry_after)


class _Held:
    """The text that has arrived and is not released, and when it came."""

    def __init__(self, windows: AnswerWindows, settings: StreamSettings) -> None:
        self.windows = windows
        self.opened: list[Window] = []
        self.failure: Exception | None = None
        # By the loop's own clock, which tells how long it waits.
        self.arrivals = Arrivals(asyncio.get_running_loop().time)
        self._settings = settings
        self._ended = False
        self._nothing_to_flush = False

    @property
    def wants_more(self) -> bool:
        """Whether to read on."""
        waiting = self.windows.received - self.arrivals.released
        return not self._ended and waiting < _AHEAD * self._settings.hold_chars

    def take(self, reading: asyncio.Task[str | None]) -> None:
        """Takes what was read: text, the end, or an error that is kept until the text before it is released."""
        try:
            text = reading.result()
            self.opened += self.windows.end() if text is None else self.windows.feed(text)
            self._ended = text is None
            while text == FLUSH and (flushed := self.windows.flush()):
                self.opened += flushed
        except Exception as error:
            self.failure, self._ended = error, True
            self.opened += self.windows.end()
        self._nothing_to_flush = False
        self.arrivals.came(self.windows.received)

    def patience(self) -> float | None:
        """Seconds until pending text has waited for ``hold_ms``; None where there is none."""
        if self._nothing_to_flush or not self.windows.pending:
            return None
        return max(0.0, self._settings.hold_ms / 1000 - self.arrivals.since(self.windows.position))

    def flush(self) -> None:
        """Opens a window with the text that has waited."""
        flushed = self.windows.flush()
        self._nothing_to_flush = not flushed
        self.opened += flushed


def _noted(judged: Judged, notes: tuple[str, ...]) -> Judged:
    verdict = judged.verdict
    return judged._replace(verdict=verdict.model_copy(update={"notes": (*verdict.notes, *notes)})) if notes else judged


async def _next(chunks: AsyncIterator[str]) -> str | None:
    return await anext(chunks, None)


async def _close(tasks: list[asyncio.Task[object]], chunks: AsyncIterator[str]) -> None:
    """Cancels what runs, then closes the upstream, which cannot be closed while it is being read."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if close := getattr(chunks, "aclose", None):
        await close()
