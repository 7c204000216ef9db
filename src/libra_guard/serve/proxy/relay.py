"""A stream of chat completion chunks, held back until the texts in them have been judged.

Chunks leave whole, in the order in which they came: so usage, log probabilities and numbers that a server adds stay
what and where they were. A chunk leaves when all of its texts lie in windows that have passed. A choice's calls of
tools leave together, in the place of the first part of them: nobody can use one before it is complete. Sounds, which
may come before what they say, leave when the whole transcript of their choice has passed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from libra_guard.errors import LibraError
from libra_guard.records import Target
from libra_guard.serve.errors import ApiError, api_error, error_body
from libra_guard.serve.proxy.answer import (
    ANSWER_FIELDS,
    AUDIO,
    blocked_chunks,
    head,
    leave_out,
    message_of,
    texts_of,
    worst,
)
from libra_guard.serve.proxy.calls import CALLS, Calls, without_calls
from libra_guard.serve.proxy.fields import has_bytes, keep_known, known_fields
from libra_guard.serve.proxy.growing import Growing
from libra_guard.serve.proxy.judging import Exchange
from libra_guard.serve.proxy.sse import DONE, KEEP_ALIVE, write_event
from libra_guard.serve.proxy.upstream import UpstreamError
from libra_guard.serve.state import Judged

KEEP_ALIVE_SECONDS = 15.0
"""Without a byte down; proxies and clients give up a connection after some time of that. A call that keeps coming, or a
text that waits for the guard, is silence too."""
_AHEAD = 8
"""The upstream is read on while less than so many times ``hold_chars`` of a text wait."""
_MAX_HELD = 10_000
"""Chunks that wait; of chunks without text the upstream could send any number."""
_MAX_FIELDS = 16
"""Of a choice, with text."""
_HEAD = ("id", "object", "created", "model", "system_fingerprint")
_log = logging.getLogger(__name__)


async def relayed(exchange: Exchange, events: AsyncGenerator[dict[str, Any] | None]) -> AsyncGenerator[bytes]:
    """The guarded stream, in the bytes of server-sent events.

    A choice whose text is blocked ends with the safe answer; when all have, the upstream is read no further. What fails
    midway ends the stream with an event ``{"error": …}``, and what was held back then is not sent.

    Args:
        exchange: Whose prompt was judged.
        events: Of the upstream; see ``read_events``. Closed at the end.
    """
    relay = _Relay(exchange)
    try:
        async with aclosing(relay.chunks(events)) as chunks:
            async for chunk in chunks:
                yield KEEP_ALIVE if chunk is None else write_event(chunk)
    except Exception as error:
        if isinstance(error, UpstreamError):
            exchange.server.metrics.upstream_failed(error.kind)
            await exchange.hear(error)
        failure = api_error(error)
        foreseen = isinstance(error, LibraError | ApiError)
        _log.error("a stream broke off: %s", failure.code, exc_info=None if foreseen else error)
        yield write_event(error_body(failure))
    yield DONE


class _End(Enum):
    """Of the upstream's stream."""

    SAID = auto()
    """By ``[DONE]``."""
    CUT = auto()
    """Without it: all may have come, or not."""


@dataclass(eq=False)
class _Choice:
    """One of the answers that are streamed side by side."""

    index: int
    growing: dict[str, Growing] = field(default_factory=dict)
    """By field."""
    calls: Calls = field(default_factory=Calls)
    calling: dict[str, Any] | None = None
    """The delta in which all calls are to leave."""
    left_out: set[str] = field(default_factory=set)
    named: bool = False
    """Whether its role has been sent."""
    shown: bool = False
    """Whether text of the answer has been sent."""
    finished: bool = False
    blocked: bool = False

    def note(self, delta: Mapping[str, Any]) -> None:
        """Takes a delta as sent."""
        self.named = self.named or bool(delta.get("role"))
        self.shown = self.shown or any(name in ANSWER_FIELDS for name in texts_of(delta))

    @property
    def texts(self) -> list[Growing]:
        """All that grow or have grown."""
        return list(self.growing.values())

    def judged(self) -> Judged | None:
        """The strictest decision on what was sent."""
        return worst([t.worst for t in self.texts if t.worst and (t.answers or not t.stopped)])


@dataclass(eq=False)
class _Held:
    """A chunk that waits."""

    chunk: dict[str, Any]
    waits: list[tuple[_Choice, Growing, float]] = field(default_factory=list)
    """For which text to be decided upon, and how far."""
    finishes: list[_Choice] = field(default_factory=list)
    """The choices that end with it."""

    def parts(self, choice: _Choice) -> list[dict[str, Any]]:
        """The choice's parts of the chunk."""
        return [part for part in self.chunk.get("choices") or [] if (part.get("index") or 0) == choice.index]

    def has_passed(self, choice: _Choice) -> bool:
        """Whether what it has of a choice was judged and found good."""
        return choice not in self.finishes and all(
            text.released >= position for other, text, position in self.waits if other is choice
        )

    def without(self, choice: _Choice) -> bool:
        """Takes a choice out of it; whether something is left."""
        parts = self.parts(choice)
        for part in parts:
            self.chunk["choices"].remove(part)
        self.waits = [wait for wait in self.waits if wait[0] is not choice]
        self.finishes = [other for other in self.finishes if other is not choice]
        return not parts or bool(self.chunk["choices"] or self.chunk.get("usage"))


class _Relay:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._limit = _AHEAD * exchange.server.settings.stream.hold_chars
        self._changed = asyncio.Event()
        self._choices: dict[int, _Choice] = {}
        self._held: deque[_Held] = deque()
        self._head = head(exchange.asked, "chat.completion.chunk")
        self._ended = False

    async def chunks(self, events: AsyncGenerator[dict[str, Any] | None]) -> AsyncGenerator[dict[str, Any] | None]:
        """What may be sent, as soon as it may; None where nothing could be for a while."""
        reading: asyncio.Task[dict[str, Any] | _End] | None = None
        waking = asyncio.create_task(self._changed.wait())
        now = asyncio.get_running_loop().time
        sent = now()
        try:
            while True:
                while chunk := self._release():
                    yield chunk
                    sent = now()
                if self._is_over:
                    return
                if now() - sent >= KEEP_ALIVE_SECONDS:
                    yield None
                    sent = now()
                if reading is None and self._wants_more:
                    reading = asyncio.create_task(_next(events))
                running = [task for task in (reading, waking) if task]
                patience = sent + KEEP_ALIVE_SECONDS - now()
                await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if waking.done():
                    self._changed.clear()
                    waking = asyncio.create_task(self._changed.wait())
                if reading and reading.done():
                    self._take(reading.result())
                    reading = None
        finally:
            tasks = [text.close() for choice in self._choices.values() for text in choice.texts]
            for task in (reading, waking):
                if task:
                    task.cancel()
            await asyncio.gather(*tasks, *(task for task in (reading, waking) if task), return_exceptions=True)
            await events.aclose()

    @property
    def _is_over(self) -> bool:
        blocked = [choice.blocked for choice in self._choices.values()]
        return not self._held and (self._ended or (len(blocked) >= self._exchange.asked.n and all(blocked)))

    @property
    def _wants_more(self) -> bool:
        texts = [text for choice in self._choices.values() for text in choice.texts]
        # What comes after calls and sounds must be read, for they wait for their end.
        if self._ended or (len(self._held) >= _MAX_HELD // 2 and not any(t.field in (CALLS, AUDIO) for t in texts)):
            return False
        return all(text.waiting < self._limit for text in texts)

    def _take(self, chunk: dict[str, Any] | _End) -> None:
        if isinstance(chunk, _End):
            if chunk is _End.CUT and not (self._choices and all(choice.finished for choice in self._choices.values())):
                raise UpstreamError("cut", "the upstream's stream broke off")
            self._ended = True
            for choice in self._choices.values():
                self._finish(choice)
            return
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            raise UpstreamError("garbage", "the upstream streamed a chunk whose choices cannot be read")
        chunk = known_fields(chunk, self._exchange.asked.model)
        self._head |= {name: chunk[name] for name in _HEAD if name in chunk}
        held = _Held(chunk)
        kept = [choice for choice in choices if self._hold(choice, held)]
        chunk["choices"] = kept
        if kept or not choices or chunk.get("usage"):
            self._held.append(held)
        if len(self._held) > _MAX_HELD:
            raise UpstreamError("garbage", f"more than {_MAX_HELD:,} chunks of the upstream's wait for calls or sounds")

    def _hold(self, part: Any, held: _Held) -> bool:
        """Takes one choice of a chunk; whether it is to be sent in time."""
        delta = message_of(part, "delta")
        index = part.get("index") or 0
        if not isinstance(index, int) or not 0 <= index < self._exchange.asked.n:
            raise UpstreamError("garbage", "the upstream streamed a choice whose index is no number below n")
        choice = self._choices.setdefault(index, _Choice(index))
        if choice.blocked:
            return False
        keep_known(part, "delta", tokens=self._exchange.monitors)
        texts, calls, sounds = texts_of(delta), choice.calls.feed(delta), has_bytes(delta.get(AUDIO))
        if choice.finished and (texts or calls or sounds):
            raise UpstreamError("garbage", "the upstream streamed a text or sound after the end of its choice")
        if not texts and not calls and part.get("logprobs") and not self._exchange.monitors:
            # Tokens of a text that is not here: a server keeps it back while it looks for calls in it.
            part["logprobs"] = None
        for name, text in texts.items():
            if name in choice.left_out:
                leave_out(part, "delta", name)
                continue
            growing = self._growing(choice, name)
            growing.feed(text)
            held.waits.append((choice, growing, growing.due))
        if sounds:
            held.waits.append((choice, self._growing(choice, AUDIO), math.inf))
        is_left = not calls or self._hold_calls(choice, delta, held)
        if calls or any(name in ANSWER_FIELDS for name in texts):
            # Thoughts are over when the answer begins: their end need not wait for more of them.
            for other in choice.texts:
                if not other.answers and other.field not in texts:
                    other.flush()
        if part.get("finish_reason") and not choice.finished:
            self._finish(choice)
            held.finishes.append(choice)
            return True
        return is_left

    def _hold_calls(self, choice: _Choice, delta: dict[str, Any], held: _Held) -> bool:
        """Takes the calls in a delta; whether this is to be sent in time."""
        growing = self._growing(choice, CALLS)
        if self._exchange.monitors:
            return True
        is_left = without_calls(delta)
        if choice.calling is None:
            choice.calling = delta
            held.waits.append((choice, growing, math.inf))
            return True
        return is_left

    def _growing(self, choice: _Choice, name: str) -> Growing:
        if name not in choice.growing:
            if len(choice.growing) >= _MAX_FIELDS:
                raise UpstreamError("garbage", f"the upstream streamed a choice with more than {_MAX_FIELDS} texts")
            choice.growing[name] = Growing(self._exchange, self._changed, name)
        return choice.growing[name]

    def _finish(self, choice: _Choice) -> None:
        if choice.finished:
            return
        choice.finished = True
        if choice.calling is not None:
            choice.calling.update(choice.calls.complete)
        if CALLS in choice.growing and (said := choice.calls.text):
            choice.growing[CALLS].feed(said)
        for text in choice.growing.values():
            text.end()

    def _release(self) -> dict[str, Any] | None:
        """The next chunk, if it may be sent now."""
        # Before each: what was decided since the last one may have to do with this one.
        for choice in self._choices.values():
            self._heed(choice)
        if not self._held or not self._is_ready(self._held[0]):
            return None
        held = self._held.popleft()
        for part in held.chunk.get("choices") or []:
            index = part.get("index") or 0
            self._choices[index].note(part["delta"])
            self._exchange.note_bytes(index, part["delta"])
        for choice in sorted(held.finishes, key=_strictness):
            held.chunk["libra"] = self._exchange.extension(Target.RESPONSE, choice.judged(), choice.index)
        return held.chunk

    def _is_ready(self, held: _Held) -> bool:
        waits = [] if self._exchange.monitors else [(text, position) for _, text, position in held.waits]
        waits += [(text, math.inf) for choice in held.finishes for text in choice.texts]
        return all(text.covers(position) for text, position in waits)

    def _heed(self, choice: _Choice) -> None:
        """Does what follows from texts that were stopped."""
        for text in [] if choice.blocked else choice.texts:
            if text.stopped and text.answers:
                self._block(choice, text.stopped)
                return
            if text.stopped and text.field not in choice.left_out:
                choice.left_out.add(text.field)
                self._exchange.left_out.append(f"choices[{choice.index}].{text.field}")
                for held in self._held:
                    if not held.has_passed(choice):
                        for part in held.parts(choice):
                            leave_out(part, "delta", text.field)

    def _block(self, choice: _Choice, judged: Judged) -> None:
        choice.blocked = True
        for text in choice.texts:
            text.close()
        # In the place of what is blocked: what comes after it, usage say, still does.
        place = next((i for i, held in enumerate(self._held) if not held.has_passed(choice)), len(self._held))
        held = list(self._held)
        for sent in held[:place]:
            for part in sent.parts(choice):
                choice.note(part["delta"])
        left = [one for one in held[place:] if one.without(choice)]
        answer = self._exchange.safe_answer(judged)
        words = f"\n\n{answer}" if choice.shown else answer
        found = self._exchange.extension(Target.RESPONSE, judged, choice.index)
        ending = blocked_chunks(self._head, choice.index, words, found, role=not choice.named)
        self._held = deque([*held[:place], *map(_Held, ending), *left])


async def _next(events: AsyncGenerator[dict[str, Any] | None]) -> dict[str, Any] | _End:
    event = await anext(events, _End.CUT)
    return _End.SAID if event is None else event


def _strictness(choice: _Choice) -> int:
    judged = choice.judged()
    return -1 if judged is None else judged.decision.would.severity
