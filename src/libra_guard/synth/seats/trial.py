"""What all seats do with answers that cannot be read: ask again, and give up a model none of whose can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from libra_guard.data.reasons import reason_kind
from libra_guard.errors import LibraError
from libra_guard.synth.seats.failure import Failure

Brought = TypeVar("Brought")

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

    @property
    def first(self) -> int:
        """Answers to look at before all are asked for; 0 once it is of use."""
        return _FIRST if self._unread is not None else 0

    def look(self, unread: Sequence[str], *, read: bool) -> None:
        """Looks at answers as long as none could be read.

        Args:
            unread: Why those could not be that the model is to blame for; empty where nothing is told.
            read: Whether any of the others could.

        Raises:
            UselessModelError: It is of none.
        """
        if self._unread is None:
            return
        if read:
            self._unread = None
            return
        self._unread.update(unread)
        if (count := self._unread.total()) >= _FIRST:
            reasons = ", ".join(f"{times} × {reason}" for reason, times in self._unread.most_common(3) if reason)
            told = f": {reasons}" if reasons else ""
            raise UselessModelError(
                f"{self._who}: none of its first {count} answers could be read{told}; nothing more is asked: "
                f"{self._remedy}"
            )

    def repeated(
        self,
        count: int,
        attempt: Callable[[Sequence[int], int], Sequence[Brought]],
        wrong: Callable[[Brought], str],
        times: int,
    ) -> list[Brought]:
        """What is brought for each of so many places: the first that nothing is wrong with, else the last.

        Args:
            count: How many there are.
            attempt: Asks for the places that are given, as the attempt of that number, from 0 on.
            wrong: Why another attempt may bring something better; empty where it may not.
            times: Attempts, at least one.
        """
        found = [*attempt(range(count), 0)]
        for number in range(1, times):
            reasons = {place: reason for place, brought in enumerate(found) if (reason := wrong(brought))}
            if not reasons:
                break
            self.asked_again.update(reasons.values())
            for place, brought in zip(reasons, attempt([*reasons], number), strict=True):
                found[place] = brought
        return found


def wrong(brought: object) -> str:
    """Why an answer that is there is of no use; empty where it is of use, or is not there."""
    return reason_kind(brought.reason) if isinstance(brought, Failure) and not brought.model else ""


def unread(brought: Sequence[object]) -> list[str]:
    """Why answers could not be read, a model's own failures left out."""
    return [*filter(None, map(wrong, brought))]
