"""A guard as what GuardBench measures: conversations in, unsafe scores out.

GuardBench (Bassani and Sanchez, EMNLP 2024) calls ``moderate(conversations=…)`` with a batch of lists of ``role`` and
``content``, and takes one float each. It calls unsafe what is more than 0.5, and ranks by the float itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import nextafter

from libra_guard.guards.band import Band
from libra_guard.guards.base import Guard
from libra_guard.records import Conversation, Message, Role, Verdict, is_visible

Turns = Sequence[Mapping[str, str]]
"""A conversation as GuardBench has it."""
Moderate = Callable[[Sequence[Turns]], list[float]]

_BAND = Band(0.0, nextafter(0.5, 1), 1.0)
"""The guard's threshold comes to lie just above GuardBench's."""
_UNSAFE = 1.0


def moderate(guard: Guard) -> Moderate:
    """The function that ``guardbench.benchmark`` wants as its ``moderate``.

    Scores are moved so that more than 0.5 is what the guard would block at its own threshold, and keep their order
    below it and above it. A verdict without a score is 1 where it is flagged, else 0. What the guard cannot judge gets
    1, as one who must decide would block it, and a warning: a figure over such rows says little of the guard. Blank
    turns before the last one are left out.

    Args:
        guard: Judges the last message of each conversation, the batch at once.

    Returns:
        A function of ``conversations`` that gives one float each, in [0, 1], in order. It raises what ``Guard.judge``
        raises where the model or the server fails.
    """

    def scores(conversations: Sequence[Turns]) -> list[float]:
        read = [_conversation(turns) for turns in conversations]
        judged = {i: c for i, c in enumerate(read) if c is not None and c.target in guard.targets}
        for conversation in (c for i, c in enumerate(read) if i not in judged):
            why = "a broken message, or a last one that is blank"
            if conversation is not None:
                why = f"a {conversation.target.value}, which '{guard.name}' does not judge"
            warnings.warn(f"scored 1 without being judged: {why}", stacklevel=2)
        verdicts = guard.judge(list(judged.values()))
        found = {
            i: _score(verdict, guard.threshold_for(conversation.target))
            for (i, conversation), verdict in zip(judged.items(), verdicts, strict=True)
        }
        return [found.get(i, _UNSAFE) for i in range(len(read))]

    return scores


def _conversation(turns: Turns) -> Conversation | None:
    """The conversation; None where there is nothing to judge."""
    try:
        told = [t for i, t in enumerate(turns, 1) if i == len(turns) or any(map(is_visible, t["content"]))]
        return Conversation(messages=tuple(Message(role=Role(t["role"]), content=t["content"]) for t in told))
    except (KeyError, TypeError, ValueError):
        # A turn without a role or a content, or with one that is no text.
        return None


def _score(verdict: Verdict, threshold: float) -> float:
    score = _BAND.score(verdict, threshold)
    if score is None:
        return float(verdict.flagged)
    # Controversial is blocked too, and its score may be less than the threshold.
    return max(score, _BAND.middle) if verdict.flagged else score
