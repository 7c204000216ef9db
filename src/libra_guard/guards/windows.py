"""Long texts: overlapping windows, of which the worst decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from libra_guard.backends.base import Span
from libra_guard.errors import UsageError
from libra_guard.records import Conversation, Label, Message, Role, Target, Verdict, is_visible

OVERLAP = 0.25
"""Share of a window that the next one repeats, so that a sentence cut at a border stands whole in one of them."""
Spans = Callable[[Sequence[str]], list[list[Span]]]
"""A backend's ``spans``."""

_LEAST = 16
_LEFT_OUT = "……"
_SEVERITY = {Label.SAFE: 0, Label.CONTROVERSIAL: 1, None: 2, Label.UNSAFE: 3}


class Windows(NamedTuple):
    """A conversation in pieces that a guard can read."""

    pieces: list[Conversation]
    notes: tuple[str, ...] = ()
    """What was left out of them."""


class Merged(NamedTuple):
    """The verdict on all windows, and which of them decided."""

    verdict: Verdict
    worst: int


def cut(conversation: Conversation, room: int, spans: Spans) -> Windows:
    """Cuts the last exchange into windows.

    The text that is judged is covered whole. A question before a judged answer is context: where it takes more than
    half of the room, its beginning and end are kept, and a note says so.

    Args:
        conversation: Its last exchange is cut; earlier turns are not kept.
        room: Tokens that the question and the answer may take together.
        spans: The backend's ``spans``.
    """
    if conversation.target is Target.PROMPT:
        return Windows([Conversation.from_pair(piece) for piece in split(conversation.question, room, spans)])
    question = shorten(conversation.question, room // 2, spans)
    notes = () if question == conversation.question else ("the question was shortened to its beginning and end",)
    asked = (Message(role=Role.USER, content=question),) if question else ()
    left = room - len(spans([question])[0])
    pieces = [
        Conversation(messages=(*asked, Message(role=Role.ASSISTANT, content=piece)))
        for piece in split(conversation.response or "", left, spans)
    ]
    return Windows(pieces, notes)


def merge(verdicts: Sequence[Verdict]) -> Merged:
    """Joins the verdicts on one text's windows.

    The worst decides: unsafe, then unreadable, then controversial, then safe; among equals the higher score.
    A category has the highest score it had anywhere.
    """
    if len(verdicts) == 1:
        return Merged(verdicts[0], 0)
    worst = max(range(len(verdicts)), key=lambda i: (_SEVERITY[verdicts[i].label], verdicts[i].unsafe_score or 0.0))
    categories: dict[str, float] = {}
    for verdict in verdicts:
        for name, score in verdict.categories.items():
            categories[name] = max(score, categories.get(name, 0.0))
    notes = tuple(dict.fromkeys(note for v in verdicts for note in v.notes))
    joined = verdicts[worst].model_copy(update={"categories": categories, "windows": len(verdicts), "notes": notes})
    return Merged(joined, worst)


def split(text: str, room: int, spans: Spans) -> list[str]:
    """Cuts a text into overlapping pieces of at most ``room`` tokens.

    Returns:
        The text alone where it fits; else pieces that cover it, each but the last repeating a quarter in the next.

    Raises:
        UsageError: There is next to no room for a text that is longer.
    """
    tokens = spans([text])[0]
    if len(tokens) <= room:
        return [text]
    if room < _LEAST:
        raise UsageError(f"the prompt leaves {room} tokens for the text; a larger context is needed")
    # Cutting inside a character or a word can cost a few tokens more than the whole text had there.
    size = room - max(4, room // 32)
    while True:
        pieces = _pieces(text, tokens, size)
        excess = max(map(len, spans(pieces))) - room
        if excess <= 0 or size == 1:
            return pieces
        size = max(1, size - excess)


def shorten(text: str, room: int, spans: Spans) -> str:
    """The text's beginning and end, of at most ``room`` tokens together; the text itself where it fits."""
    tokens = spans([text])[0]
    if len(tokens) <= room:
        return text
    half = (room - max(4, room // 32)) // 2
    while half > 0:
        short = text[: tokens[half - 1].end] + _LEFT_OUT + text[tokens[-half].start :]
        excess = len(spans([short])[0]) - room
        if excess <= 0:
            return short
        half -= -(-excess // 2)
    raise UsageError(f"there are {room} tokens for the question; a larger context is needed")


def _pieces(text: str, tokens: Sequence[Span], size: int) -> list[str]:
    step = max(1, int(size * (1 - OVERLAP)))
    pieces = []
    for first in range(0, len(tokens), step):
        last = min(first + size, len(tokens))
        start = 0 if first == 0 else tokens[first].start
        end = len(text) if last == len(tokens) else tokens[last - 1].end
        pieces.append(text[start:end])
        if last == len(tokens):
            break
    return [piece for piece in pieces if any(map(is_visible, piece))]
