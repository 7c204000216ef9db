"""An answer that is still being written, judged as it grows: windows of it, and verdicts on them.

Knows nothing of servers: text goes in, windows come out. What a window holds may be shown when it has passed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple, Self

from pydantic import ConfigDict, Field, model_validator

from libra_guard.backends.base import Span
from libra_guard.configuration import Strict
from libra_guard.guards.base import Guard
from libra_guard.guards.windows import merge, shorten
from libra_guard.predict.arrivals import Arrivals, FirstHit
from libra_guard.predict.boundaries import SentenceEnds, overlap_start, whole
from libra_guard.records import Conversation, Message, Role, Verdict, check_text, is_visible

SHORTENED = "the question was shortened to its beginning and end"
LEFT_OUT = "earlier messages were read only with parts in doubt"
_SHOWN = 4
"""A window shows so many characters a sentence on average, or half of ``least``: in less, as in one character a line,
no guard reads anything."""


class StreamSettings(Strict):
    """How a growing answer is cut, and how long its text may be held back."""

    least: int = Field(default=10, ge=1, le=10_000)
    """New characters from which a sentence's end opens a window. More: fewer windows, fewer false stops, and more
    unsafe sentences that pass because the others around them are harmless."""
    overlap: int = Field(default=60, ge=0, le=1000)
    """At most so many characters before a window are judged again with it where there is a doubt, or a cut inside a
    sentence."""
    doubt: float = Field(default=0.2, ge=0, le=1)
    """A window that passes with this unsafe score or more is judged once more with the text before it, and its
    sentences by themselves where it has several, for harmless ones beside it can hide what is not."""
    suspicion: float = Field(default=0.05, ge=0, le=1)
    """Where a window passed with this unsafe score or more, the passage that it stands in is judged as a whole, for
    what is harmless sentence by sentence may not be so together. At the answer's end, and before where it is long."""
    hold_chars: int = Field(default=400, ge=100, le=10_000)
    """At most so many characters are held back."""
    hold_ms: float = Field(default=2000, gt=0, le=60_000)
    """Text that has waited so long is judged as it is. ``AnswerWindows`` has no clock: its driver calls ``flush``."""
    work: float = Field(default=2.5, ge=2, le=100)
    """First looks judge at most so many times the characters of question and answer; see ``AnswerWindows``."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.overlap > self.hold_chars // 4:
            raise ValueError(f"overlap is {self.overlap}; it may be a quarter of hold_chars at most")
        if self.least > self.hold_chars // 2:
            raise ValueError(f"least is {self.least}; it may be half of hold_chars at most")
        return self

    @property
    def question_chars(self) -> int:
        """Of a question so many characters are judged with each window: what is repeated is half a window at most."""
        return self.hold_chars // 2 - self.overlap

    def doubts(self, verdict: Verdict) -> bool:
        """Whether a window that passed so gets second looks; without a score, any does."""
        return verdict.unsafe_score is None or verdict.unsafe_score >= self.doubt


class Window(NamedTuple):
    """A part of the answer that is to be judged before it may be shown."""

    conversation: Conversation | None
    """The question with the part, from its sentence's beginning on; None where nothing shows that could be judged."""
    context: Conversation | None
    """The same with the text before it, in which deny lists are looked up too; None where there is none. See
    ``AnswerWindows.again``."""
    sentences: tuple[Conversation, ...]
    """The question with each of the part's sentences that is at least ``least`` long. Empty where it is only one, and
    where they show a few characters each."""
    passage: Conversation | None
    """The question with the part and up to ``hold_chars`` characters of the answer in all, where that is due: at the
    answer's end, and where three quarters of it are new. None where it is the part itself."""
    text: str
    """The part itself, ``answer[start:end]``."""
    start: int
    end: int


class SecondLooks(NamedTuple):
    """What is judged besides a window that passed."""

    context: Sequence[Conversation] = ()
    """The part with the text before it, and with earlier messages where the guard reads them; at most one."""
    sentence: Sequence[Conversation] = ()
    """The part's sentences by themselves."""
    passage: Sequence[Conversation] = ()
    """The part with much of the answer before it; at most one."""


class StreamState(Strict):
    """Where an ``AnswerWindows`` stands, to go on from elsewhere. Its texts are at most ``hold_chars`` long each."""

    model_config = ConfigDict(strict=True)

    position: int = Field(ge=0, le=1 << 40)
    """Characters of the answer that lie in windows."""
    before: str
    """The last of them, which may be judged again with what follows."""
    repeated: int = Field(ge=0)
    """So many of ``before`` are the beginning of a sentence that was cut, and are judged again in any case."""
    pending: str
    """What lies in no window yet."""
    half: int | None = Field(default=None, ge=0xD800, le=0xDBFF)
    """The first half of a surrogate pair, if the text ended with one."""
    credit: float = Field(ge=-(1 << 40), le=1 << 40, allow_inf_nan=False)
    """So many characters may be judged again yet."""
    recalled: int = Field(default=0, ge=0, le=1 << 40)
    """Characters of earlier messages that were judged in second looks."""
    unread: int = Field(default=0, ge=0, le=1 << 40)
    """Characters in windows since a passage was last due."""
    worst: float | None = Field(default=0, ge=0, le=1)
    """The highest unsafe score of these windows; None once one was flagged, as no passage then tells more."""


class AnswerWindows:
    """Cuts a growing answer into windows.

    A window opens where a sentence ends, if the work allows it and its new text is at least ``least`` long, in
    sentences that show more than a few characters; where ``hold_chars`` are pending; on ``flush``; and at the answer's
    end. The same answer gives the same windows however it is chunked, as long as ``flush`` is not called.

    *Work.* Every window repeats the question, which is shortened where it is long. The characters judged are at most
    ``work`` times those of question and answer: a window opens only if the last one could be paid after it; until then
    sentences are judged together. On top come what windows of ``flush`` repeat, which later ones save as far as they
    can, and the second looks: at most one with context for each window and one at each of its sentences, and at
    passages of which three quarters are new each time.

    *Earlier messages*, all but the question, cost nothing where the guard does not read them. Where it does, they stand
    in every window if with the question they are at most ``question_chars`` long, and are counted as it is. Longer ones
    stand in second looks alone, as long as what is read of them so is at most ``work`` times them and the answer.

    *What is seen whole.* Cuts fall after sentences. A sentence of up to ``hold_chars // 2`` characters stands whole in
    one window; a longer one may be cut where ``hold_chars`` are pending, between characters as they are shown, and any
    ``overlap // 2`` characters of it stand whole in one window. A sentence that ``flush`` cuts is judged again from its
    beginning, up to ``hold_chars``, so that its end is shown only after the whole has passed.

    Args:
        question: What was asked, empty where it is not known; or all messages before the answer, for guards that read
            them.
        settings: How to cut.
        multi_turn: Whether the guard reads earlier messages.

    Raises:
        ValueError: The question cannot be judged; see ``check_text``.
    """

    def __init__(
        self, question: str | Sequence[Message], settings: StreamSettings | None = None, *, multi_turn: bool = False
    ) -> None:
        self._settings = settings or StreamSettings()
        most = self._settings.question_chars
        self._messages, self.asked = _shortened(question, most)
        # What stands in every window, and how many characters of it a guard reads.
        self._repeated = self._messages
        last = [m for m in self._messages if m.role is Role.USER][-1:]
        asked, self._question = len(self.asked), sum(len(m.content) for m in last)
        self.notes: tuple[str, ...] = () if asked == self._question else (SHORTENED,)
        """What the reader of a verdict should know."""
        self._earlier = self._recalled = self._unread = 0
        self._worst: float | None = 0.0
        earlier = sum(len(m.content) for m in self._messages) - self._question if multi_turn else 0
        if self._question + earlier <= most:
            asked, self._question = asked + earlier, self._question + earlier
        else:
            self._repeated, self._earlier, self.notes = tuple(last), earlier, (*self.notes, LEFT_OUT)
        # What may be judged yet, without what is pending: so much is left for questions and for text judged before.
        self._credit = self._settings.work * asked
        self._position = 0
        self._half = ""
        # The text before, from `_begin` on judged again; then, from `_new` on, what is pending.
        self._text = ""
        self._begin = self._new = 0
        self._read_again()

    @classmethod
    def resume(
        cls,
        question: str | Sequence[Message],
        state: StreamState,
        settings: StreamSettings | None = None,
        *,
        multi_turn: bool = False,
    ) -> Self:
        """Goes on from a state that was given for the same arguments.

        Raises:
            ValueError: No such state can have been given, or the question cannot be judged.
        """
        windows = cls(question, settings, multi_turn=multi_turn)
        most, before = windows._settings.hold_chars, len(state.before)
        if before > min(most, state.position) or state.repeated > before or len(state.pending) > most:
            raise ValueError("the state does not belong to these settings")
        windows._position, windows._credit, windows._recalled = state.position, state.credit, state.recalled
        windows._unread, windows._worst = state.unread, state.worst
        windows._text = _encodable(state.before + state.pending)
        windows._begin, windows._new = before - state.repeated, before
        windows._half = "" if state.half is None else chr(state.half)
        windows._read_again()
        return windows

    @property
    def state(self) -> StreamState:
        """Where this stands."""
        return StreamState(
            position=self._position,
            before=self._text[: self._new],
            repeated=self._new - self._begin,
            pending=self._text[self._new :],
            half=ord(self._half) if self._half else None,
            credit=self._credit,
            recalled=self._recalled,
            unread=self._unread,
            worst=self._worst,
        )

    @property
    def position(self) -> int:
        """Characters that lie in windows."""
        return self._position

    @property
    def pending(self) -> int:
        """Characters that lie in no window yet; at most ``hold_chars``."""
        return len(self._text) - self._new

    @property
    def received(self) -> int:
        """Characters that have come: those in windows and those pending."""
        return self._position + self.pending

    def feed(self, text: str) -> list[Window]:
        """Takes the answer's next text, of any length; returns the windows that it opens.

        Raises:
            ValueError: It holds a lone surrogate. Halves of a pair in two texts are joined.
        """
        text, self._half = _joined(self._half + text)
        windows = []
        for character in text:
            self._text += character
            self._credit += self._settings.work - 1
            self._read(character)
            if self._last_end == len(self._text) - 1 and self._opens():
                windows.append(self._cut(self._last_end))
            elif self.pending > self._settings.hold_chars:
                windows.append(self._forced())
        return windows

    def flush(self) -> list[Window]:
        """The pending text, up to the last sentence's end where there is one; nothing where it shows nothing yet."""
        if _shows(self._text[self._new : self._last_end]):
            return [self._cut(self._last_end)]
        end = whole(self._text, len(self._text), self._new)
        if not _shows(self._text[self._new : end]):
            return []
        return [self._cut(end, max(self._begin, end - self._settings.hold_chars))]

    def end(self) -> list[Window]:
        """All that is pending, as nothing follows.

        Raises:
            ValueError: The answer ended inside a surrogate pair.
        """
        _encodable(self._half)
        return [self._cut(len(self._text), ends=True)] if self.pending else []

    def again(self, window: Window, verdict: Verdict | None) -> SecondLooks:
        """What is judged besides a window.

        To be asked for of each that shows something, in their order, and only where it is judged: verdicts and the
        earlier messages in it are counted.

        Args:
            window: Of this answer.
            verdict: Of the first look; None where that was flagged.
        """
        if not verdict:
            self._worst = None
            return SecondLooks()
        passages = self._passages(window, verdict)
        if not self._settings.doubts(verdict):
            return SecondLooks(passage=passages)
        context, seen = window.context, window.context or window.conversation
        allowed = self._settings.work * (self._earlier + window.end)
        if self._earlier and seen and self._recalled + self._earlier <= allowed:
            self._recalled += self._earlier
            context = Conversation(messages=(*self._messages, seen.messages[-1]))
        contexts = [context] if context else []
        return SecondLooks(contexts, window.sentences, [] if passages == contexts else passages)

    def _passages(self, window: Window, verdict: Verdict) -> list[Conversation]:
        if self._worst is None:
            return []
        worst = max(self._worst, 1.0 if verdict.unsafe_score is None else verdict.unsafe_score)
        self._worst = 0.0 if window.passage else worst
        return [window.passage] if window.passage and worst >= self._settings.suspicion else []

    def _opens(self) -> bool:
        """Whether the sentences that have ended make a window."""
        long = self._last_end - self._new >= self._settings.least
        return long and self._left() >= self._question and self._reads(self._last_end)

    def _reads(self, end: int) -> bool:
        """Whether the sentences up to ``end`` show more than a few characters each, and so anything at all."""
        shown = sum(map(is_visible, self._text[self._new : end]))
        return shown >= min(_SHOWN, self._settings.least / 2) * sum(place <= end for place in self._places)

    def _forced(self) -> Window:
        """Up to the last sentence's end if the windows after it can be paid, else as far as ``hold_chars`` reach."""
        most, overlap = self._settings.hold_chars, self._settings.overlap
        # How much more text there will be when the next one is forced.
        more = most - (len(self._text) - self._last_end)
        if _shows(self._text[self._new : self._last_end]) and self._left() + more >= 2 * self._question + overlap:
            return self._cut(self._last_end)
        limit = self._new + most
        end = whole(self._text, limit, limit - most // 4) or limit
        return self._cut(end, overlap_start(self._text, end, overlap))

    def _left(self) -> float:
        """The credit that a window leaves."""
        return self._credit - self._question - (self._new - self._begin)

    def _cut(self, end: int, begin: int | None = None, *, ends: bool = False) -> Window:
        """Makes a window of what is pending up to ``end``; if that cuts a sentence, the next one repeats ``begin``."""
        text, conversation, context, passage = self._text[self._new : end], None, None, None
        sentences: tuple[Conversation, ...] = ()
        before = overlap_start(self._text, self._new, self._settings.overlap)
        # What shows nothing can be judged only beside what does.
        first = self._begin if _shows(self._text[self._begin : end]) else min(before, self._begin)
        if _shows(self._text[first:end]):
            conversation = self._conversation(first, end)
            self._credit -= self._question + self._new - first
            context = self._conversation(before, end) if _shows(self._text[before:first]) else None
            sentences = self._sentences(first, end)
            self._unread += len(text)
            if ends or self._unread > self._settings.hold_chars * 3 // 4:
                much = overlap_start(self._text, end, self._settings.hold_chars)
                passage = self._conversation(much, end) if _shows(self._text[much:first]) else None
                self._unread = 0
        start, self._position = self._position, self._position + len(text)
        begin = end if begin is None else begin
        kept = max(0, end - self._settings.hold_chars)
        self._text, self._begin, self._new = self._text[kept:], begin - kept, end - kept
        self._read_again()
        return Window(conversation, context, sentences, passage, text, start, self._position)

    def _sentences(self, start: int, end: int) -> tuple[Conversation, ...]:
        """What ``Window.sentences`` has."""
        inside = [place for place in self._places if place < end]
        if not inside or not self._reads(end):
            return ()
        pieces = pairwise([start, *inside, end])
        long = [piece for piece in pieces if piece[1] - piece[0] >= self._settings.least]
        return tuple(self._conversation(*piece) for piece in long if _shows(self._text[slice(*piece)]))

    def _conversation(self, start: int, end: int) -> Conversation:
        return Conversation(messages=(*self._repeated, Message(role=Role.ASSISTANT, content=self._text[start:end])))

    @property
    def _last_end(self) -> int:
        """Where the last sentence ended in what is pending; 0 where none did."""
        return self._places[-1] if self._places else 0

    def _read_again(self) -> None:
        self._ends = SentenceEnds()
        # Where sentences ended in what is pending, and how far it was read.
        self._places: list[int] = []
        self._seen = self._new
        for character in self._text[self._new :]:
            self._read(character)

    def _read(self, character: str) -> None:
        if self._ends.ends_before(character):
            self._places.append(self._seen)
        self._seen += 1


class StreamVerdict(NamedTuple):
    """What a guard says of a part of a growing answer."""

    text: str
    """What may be shown now; empty where the part is flagged."""
    start: int
    end: int
    """The part is ``answer[start:end]``."""
    verdict: Verdict | None
    """None where the part shows nothing, white space alone: there was nothing to judge."""
    first_hit: FirstHit | None = None
    """How fast the part was found; None where it is not flagged."""


def judge_stream(
    guard: Guard,
    question: str | Sequence[Message],
    chunks: Iterable[str | None],
    *,
    settings: StreamSettings | None = None,
) -> Iterator[StreamVerdict]:
    """Judges an answer while it is written; ends after the first part that is flagged.

    The texts of all verdicts joined are the answer, up to the flagged part.

    Args:
        guard: Judges windows.
        question: What was asked, empty where it is not known; or all messages before the answer.
        chunks: The answer's text, in pieces of any size; None is none. Not read beyond what is flagged, and closed
            then and at the end, if it can be.
        settings: How to cut; ``hold_ms`` is not used here.

    Raises:
        ValueError: A text cannot be judged; see ``check_text``.
        BackendError: The model failed.
    """
    windows, arrivals = AnswerWindows(question, settings, multi_turn=guard.multi_turn), Arrivals()
    with closing(_opened(windows, chunks, arrivals)) as some:
        for window in some:
            verdict = _judged(guard, window, windows)
            if verdict and windows.notes:
                verdict = verdict.model_copy(update={"notes": (*verdict.notes, *windows.notes)})
            if verdict and verdict.flagged:
                # Told below: while the caller looks at it, the model must not go on.
                last = StreamVerdict("", window.start, window.end, verdict, arrivals.hit(window.end))
                break
            arrivals.release(window.end)
            yield StreamVerdict(window.text, window.start, window.end, verdict)
        else:
            return
    yield last


def _judged(guard: Guard, window: Window, windows: AnswerWindows) -> Verdict | None:
    if not window.conversation:
        return None
    verdict = guard.judge([window.conversation])[0]
    looks = [look for part in windows.again(window, None if verdict.flagged else verdict) for look in part]
    return merge([verdict, *guard.judge(looks)]).verdict if looks else verdict


def _opened(windows: AnswerWindows, chunks: Iterable[str | None], arrivals: Arrivals) -> Generator[Window]:
    try:
        for chunk in chunks:
            arrivals.came(windows.received + len(chunk or ""))
            yield from windows.feed(chunk or "")
        yield from windows.end()
    finally:
        if close := getattr(chunks, "close", None):
            close()


def _shortened(question: str | Sequence[Message], most: int) -> tuple[tuple[Message, ...], str]:
    """The messages before the answer, their question of at most ``most`` characters; the question as it was."""
    if isinstance(question, str):
        question = [Message(role=Role.USER, content=question)] if question else []
    messages = list(question)
    for i in reversed(range(len(messages))):
        if messages[i].role is Role.USER:
            asked = messages[i].content
            # Of a long one the ends are all that is looked at.
            ends = asked if len(asked) <= 2 * most else asked[:most] + asked[-most:]
            messages[i] = Message(role=Role.USER, content=shorten(ends, most, _characters))
            return tuple(messages), asked
    return tuple(messages), ""


def _characters(texts: Sequence[str]) -> list[list[Span]]:
    return [[Span(i, i + 1) for i in range(len(text))] for text in texts]


def _shows(text: str) -> bool:
    return any(map(is_visible, text))


def _joined(text: str) -> tuple[str, str]:
    """The text with its surrogate pairs joined, and the half of a pair at its end."""
    half = text[-1] if text and 0xD800 <= ord(text[-1]) < 0xDC00 else ""
    text = text.removesuffix(half)
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _encodable(text), half


def _encodable(text: str) -> str:
    """The text, if it holds no lone surrogate."""
    check_text(f"{text}.", "the answer")
    return text
