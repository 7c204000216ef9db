"""When the text of a growing answer came, and how fast what is unsafe in it was found."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from pydantic import Field

from libra_guard.configuration import Strict


class FirstHit(Strict):
    """How fast the part of a growing answer was found that ended it."""

    end: int = Field(ge=0)
    """Characters of the answer up to the part's end."""
    ahead: int = Field(ge=0)
    """Characters of the answer that had come after the part when its verdict was there."""
    ms: float = Field(ge=0)
    """Milliseconds from the coming of the part's last character to its verdict."""


class Arrivals:
    """When the characters of one answer came, as far as they are not released.

    Args:
        now: Seconds by some clock that does not go back.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now or time.monotonic
        self.received = self.released = 0
        """Characters from the answer's beginning on."""
        self._times: deque[tuple[int, float]] = deque()
        """Up to which character had come when."""

    def came(self, received: int) -> None:
        """So many characters have come by now, from the answer's beginning on."""
        if received > self.received:
            self.received = received
            self._times.append((received, self._now()))

    def release(self, end: int) -> None:
        """The text up to ``end`` waits no longer."""
        self.released = end
        while self._times and self._times[0][0] <= end:
            self._times.popleft()

    def since(self, position: int) -> float:
        """Seconds since a character came that is not released.

        Raises:
            ValueError: It has not come.
        """
        for end, when in self._times:
            if end > position:
                return self._now() - when
        raise ValueError("that character has not come")

    def waited(self) -> float:
        """Seconds that the text which is not released has waited; 0 where there is none."""
        return self.since(self.released) if self.released < self.received else 0.0

    def hit(self, end: int) -> FirstHit:
        """What is to be told where the verdict on the part that ends at ``end`` stops the answer now.

        Raises:
            ValueError: The part has not come.
        """
        return FirstHit(end=end, ahead=self.received - end, ms=1000 * self.since(end - 1))
