"""What all seats do with answers that cannot be read: ask again, and give up a model none of whose can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from libra_guard.data.reasons import reason_kind
from libra_guard.errors import LibraError
from libra_guard.synth.seats.failure import Failure

Brought = TypeVar("Brought")

UNREADABLE = "could not be read"
"""What is wrong with an answer of which no more is known."""
_FIRST = 32
"""Answers after which a model is given up where none of them could be read."""


class UselessModelError(LibraError):
    """None of a model's first answers can be read; the others would cost as much and be no better."""


class Trial:
    """A model's attempts: those that have to be made again, and whether it is of any use, which one good answer shows.

    Args:
        who: The model, for the error.
        remedy: What to do instead.
    """

    def __init__(self, who: str, remedy: str) -> None:
        self._who, self._remedy = who, remedy
        self.asked_again = Counter[str]()
        """Why answers were asked for again."""
        self._unread: Counter[str] | None = Counter()
        """Reasons, as long as no answer could be read."""

    def answers(
        self,
        count: int,
        attempt: Callable[[Sequence[int], int], Sequence[Brought]],
        wrong: Callable[[Brought], str | None],
        times: int,
    ) -> list[Brought]:
        """What is brought for each of so many places: the first that is not to be asked for again, else the last.

        Args:
            count: How many there are.
            attempt: Asks for the places that are given, as the attempt of that number, from 0 on.
            wrong: What is wrong with what was brought, see ``wrong``.
            times: Attempts, at least one.

        Raises:
            UselessModelError: None of the first answers is of use.
        """
        # The first ones alone: whether it is of any use is to be known before all are asked for.
        first = min(count, _FIRST if self._unread is not None else 0)
        found: list[Brought] = []
        for part in filter(None, (range(first), range(first, count))):
            found += self._repeated(part, attempt, wrong, times)
        return found

    def _repeated(
        self,
        part: Sequence[int],
        attempt: Callable[[Sequence[int], int], Sequence[Brought]],
        wrong: Callable[[Brought], str | None],
        times: int,
    ) -> list[Brought]:
        found: dict[int, Brought] = {}
        places = [*part]
        for number in range(times):
            brought = dict(zip(places, attempt(places, number), strict=True))
            found |= brought
            reasons = {place: wrong(one) for place, one in brought.items()}
            self._look([reason for reason in reasons.values() if reason], read=None in reasons.values())
            places = [place for place, reason in reasons.items() if reason]
            if not places or number == times - 1:
                break
            self.asked_again.update(reason for reason in reasons.values() if reason)
        return [found[place] for place in part]

    def _look(self, unread: Sequence[str], *, read: bool) -> None:
        """Looks at answers as long as none could be read."""
        if self._unread is None:
            return
        if read:
            self._unread = None
            return
        self._unread.update(unread)
        if (count := self._unread.total()) >= _FIRST:
            most = ((reason, times) for reason, times in self._unread.most_common(3) if reason != UNREADABLE)
            reasons = ", ".join(f"{times} × {reason}" for reason, times in most)
            told = f": {reasons}" if reasons else ""
            raise UselessModelError(
                f"{self._who}: none of its first {count} answers could be read{told}; nothing more is asked: "
                f"{self._remedy}"
            )


def wrong(brought: object) -> str | None:
    """What is wrong with an answer: None where nothing is, empty where there is none, for the model failed."""
    if not isinstance(brought, Failure):
        return None
    return "" if brought.model else reason_kind(brought.reason)
