"""What a run may spend: tokens and money, over all its models; and how fast it may ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from libra_guard.configuration import Strict
from libra_guard.errors import StoppedError


class BudgetSpentError(StoppedError):
    """The run has spent what it may; what was answered is kept."""


class Price(Strict):
    """Money for a million tokens, in any currency. Half a price would be a budget that is spent unseen."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def of(self, prompt_tokens: int, new_tokens: int) -> float:
        """What a call costs."""
        return (prompt_tokens * self.input + new_tokens * self.output) / 1e6


FREE = Price(input=0, output=0)


class BudgetSettings(Strict):
    """Limits over all that the run's store holds, earlier runs included; None: none."""

    tokens: int | None = Field(default=None, ge=0)
    """Prompts and answers together."""
    money: float | None = Field(default=None, ge=0)
    """A model that costs nothing goes on when it is spent. What a server made of an attempt that failed, or ran out of
    time, is not counted: nobody tells how many tokens that were."""


@dataclass(frozen=True)
class Usage:
    """What was asked of one model."""

    calls: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Usage(*(mine + theirs for mine, theirs in pairs))

    def __sub__(self, other: Usage) -> Usage:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Usage(*(mine - theirs for mine, theirs in pairs))


class Budget:
    """Counts what is spent, and says when it is enough.

    A limit is passed by the calls that are in flight when it is reached, at most.

    Args:
        settings: The limits.
        spent: What earlier runs spent.
    """

    def __init__(self, settings: BudgetSettings, spent: Usage | None = None) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._tokens, self._money = 0, 0.0
        self.spend(spent or Usage())

    def check(self, price: Price) -> None:
        """To be called before each call.

        Args:
            price: Of the model that is to be called: one that costs nothing needs no money.

        Raises:
            BudgetSpentError: A limit is reached.
        """
        tokens, money = self._settings.tokens, self._settings.money
        if tokens is not None and self._tokens >= tokens:
            raise BudgetSpentError(f"the budget of {tokens} tokens is spent ({self._tokens}); {_GO_ON}")
        if price.input + price.output and money is not None and self._money >= money:
            raise BudgetSpentError(f"the budget of {money} is spent ({self._money:.4f}); {_GO_ON}")

    def spend(self, usage: Usage) -> None:
        """To be called after each call."""
        with self._lock:
            self._tokens += usage.prompt_tokens + usage.new_tokens
            self._money += usage.money


class Pace:
    """At most so many calls a minute, evenly spaced.

    Args:
        a_minute: None: as many as there can be.
        clock: Seconds.
    """

    def __init__(self, a_minute: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 60 / a_minute if a_minute else 0.0
        self.clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")

    def take(self) -> float:
        """0 where a call may begin now, which then takes its turn; else the seconds after which to ask again."""
        with self._lock:
            now = self.clock()
            if now < self._next:
                return self._next - now
            self._next = now + self._gap
        return 0.0

    def pause(self, seconds: float) -> None:
        """No call begins before so many seconds are over."""
        with self._lock:
            self._next = max(self._next, self.clock() + seconds)


_GO_ON = "what was answered is kept: raise the budget and run again to go on"
