"""Where a model runs: endpoints share its work, are waited for while they are busy, and are given up at last."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from libra_guard.backends.base import Backend
from libra_guard.errors import BackendError, BusyError, RefusedError, ServerError, StoppedError
from libra_guard.synth.seats.budget import Pace

WAIT = 600.0
"""Seconds without any answer for which a busy endpoint is waited for, where the settings say nothing else."""
_LOOK = 0.5
"""Seconds between two looks at whether a worker that rests is still wanted."""


class EndpointsLostError(BackendError):
    """No endpoint of a model answers any more: the run cannot go on, and what was answered is kept."""


class EndpointsAwayError(EndpointsLostError, StoppedError):
    """None does now, and one may be back: the same call goes on."""


@dataclass
class Endpoint:
    """One place where a model runs."""

    backend: Backend
    pace: Pace = field(default_factory=lambda: Pace(None))
    concurrency: int = 1
    """Calls at a time."""
    rest: float = 0.0
    """Seconds without a new call after a failure, where it has answered before: a busy server may come back."""
    wait: float = WAIT
    """Seconds without any answer after which it is given up, where it says that it is busy or takes no connection."""
    failures: int = 0
    """In a row. Inputs that it does not take are none, and an outage is one, however many calls it meets."""
    outages: int = 0
    """Failures ever: a call that began before the last of them failed with it."""
    answered: bool = False
    since: float | None = None
    """Since when it is busy, by the clock of its pace; None where it is not."""
    heard: float = float("-inf")
    """When it last said anything but that, likewise."""
    gone: str = ""
    """Why it is waited for no more."""
    away: bool = False
    """Whether the last failure was one that the same call may not meet again."""

    def given_up(self, patience: int) -> str:
        """Why it is asked no more; empty where it is."""
        return self.gone or (f"{patience} failures in a row" if self.failures >= patience else "")

    def answers(self) -> bool:
        """Counts an answer; returns whether something stood against it."""
        stood = bool(self.failures or self.gone)
        self.answered, self.failures, self.gone = True, 0, ""
        self.lives()
        return stood

    def lives(self) -> None:
        """Notes that it took a call, whatever came of it."""
        self.since, self.heard = None, self.pace.clock()

    def busy(self, seen: int, begun: float, error: BusyError) -> None:
        """Counts a call that was not taken: rests as long as the server asks, and gives it up at the end of ``wait``.

        Args:
            seen: ``outages`` when it began.
            begun: When that was.
            error: What was said.
        """
        if not (error.there or self.answered):
            # An address that is wrong; see ``failed``.
            self.failed(seen, error)
            return
        self.away = True
        if self.since is None:
            self.since = max(begun, self.heard)
        elif seen < self.outages:
            # It met the outage that is waited for already.
            return
        self.outages += 1
        left = self.since + self.wait - self.pace.clock()
        if left <= 0:
            self.gone = f"no answer for {self.wait:g} seconds (wait)"
        elif error.after is not None and error.after > left:
            self.gone = f"it asks to be left alone for {error.after:g} seconds, longer than it is waited for (wait)"
        else:
            self.pace.pause(min(self.rest, left) if error.after is None else error.after)

    def failed(self, seen: int, error: BackendError) -> None:
        """Counts a failed call.

        Args:
            seen: ``outages`` when it began.
            error: Why it failed.
        """
        self.away = isinstance(error, ServerError)
        # With an address that is wrong nobody wants to wait for: before the first answer every call counts.
        if self.answered and seen < self.outages:
            return
        self.failures += 1
        self.outages += 1
        if self.answered:
            self.pace.pause(self.rest)


class _Group(NamedTuple):
    """Items that are asked for at once, by their numbers."""

    items: list[int]
    failed: frozenset[int] = frozenset()
    """Numbers of the endpoints that failed on it."""
    error: BackendError | None = None
    """The last one's."""


class Queue:
    """Groups of items over endpoints: whoever is free takes the next one.

    A group that a busy endpoint does not take waits with the others: nobody failed on it.

    Args:
        model: Its name, for messages.
        endpoints: Of the model.
        patience: Failures in a row after which an endpoint is given up; one that answers a call that was under way
            then is taken back.
        check: Called before each call; what it raises ends the work.
        run: Asks an endpoint for a group.
        end: Told why the work ends before it is done; gives up the calls under way.
    """

    def __init__(
        self,
        model: str,
        endpoints: Sequence[Endpoint],
        *,
        patience: int,
        check: Callable[[], None],
        run: Callable[[Endpoint, list[int]], None],
        end: Callable[[BaseException], None],
    ) -> None:
        self._model, self._endpoints, self._patience = model, endpoints, patience
        self._check, self._run, self._tell = check, run, end
        self._changed = threading.Condition()
        self._waiting: deque[_Group] = deque()
        self._running = 0
        self._failed: list[tuple[list[int], BackendError]] = []
        self._last: BackendError | None = None
        self._fatal: BaseException | None = None

    def do(self, groups: Sequence[list[int]]) -> list[tuple[list[int], BackendError]]:
        """Runs all groups; returns those on which every endpoint failed that is left.

        Raises:
            EndpointsAwayError: None is left, and a server of them may be back.
            EndpointsLostError: None is left: keys or names are wrong, or a model of this process fails.
        """
        if not groups:
            return []
        self._waiting.extend(_Group(group) for group in groups)
        workers = [n for n, one in enumerate(self._endpoints) for _ in range(one.concurrency)]
        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                wait([pool.submit(self._work, number) for number in workers])
            except BaseException as error:
                # An interrupt: a worker whose model is in this process still ends the call that it is in.
                self._end(error)
        if self._fatal:
            raise self._fatal
        if self._waiting:
            why = ", ".join(sorted({one.given_up(self._patience) for one in self._endpoints}))
            lost = f"models.{self._model}: no endpoint answers any more, {why}: {self._last or 'none answered'}"
            if any(one.away for one in self._endpoints):
                raise EndpointsAwayError(f"{lost}; what was answered is kept: run again to go on")
            raise EndpointsLostError(f"{lost}; what was answered is kept: mend this, and run again to go on")
        return self._failed

    def _work(self, number: int) -> None:
        try:
            while group := self._next(number):
                self._one(number, group)
        except BaseException as error:
            self._end(error)

    def _next(self, number: int) -> _Group | None:
        """What the endpoint is to be asked next, once it may be; None where there will be nothing more."""
        with self._changed:
            while not self._over():
                rest = None
                group = next((one for one in self._waiting if number not in one.failed), None)
                if group and number in self._alive():
                    self._check()
                    rest = self._endpoints[number].pace.take()
                    if not rest:
                        self._waiting.remove(group)
                        self._running += 1
                        return group
                # Others may end the work meanwhile, and only ``check`` tells of it.
                self._changed.wait(min(rest, _LOOK) if rest else None)
        return None

    def _one(self, number: int, group: _Group) -> None:
        endpoint = self._endpoints[number]
        seen, begun = endpoint.outages, endpoint.pace.clock()
        try:
            self._run(endpoint, group.items)
        except BusyError as error:
            with self._changed:
                self._last = error
                endpoint.busy(seen, begun, error)
                self._waiting.append(group)
                self._settle()
        except BackendError as error:
            with self._changed:
                self._last = error
                if isinstance(error, RefusedError):
                    endpoint.lives()
                else:
                    endpoint.failed(seen, error)
                if len(group.items) > 1:
                    # One of them may be at fault.
                    self._waiting.extendleft(_Group([item], group.failed) for item in reversed(group.items))
                else:
                    self._waiting.append(_Group(group.items, group.failed | {number}, error))
                self._settle()
        else:
            with self._changed:
                if endpoint.answers():
                    self._settle()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _settle(self) -> None:
        """Gives up what every endpoint failed on that is left."""
        if alive := self._alive():
            lost = [group for group in self._waiting if alive <= group.failed]
            for group in lost:
                self._waiting.remove(group)
                # A split group has no error of its own yet.
                self._failed.append((group.items, group.error or BackendError(str(self._last))))

    def _alive(self) -> set[int]:
        return {number for number, one in enumerate(self._endpoints) if not one.given_up(self._patience)}

    def _over(self) -> bool:
        idle = not self._running and (not self._waiting or not self._alive())
        return self._fatal is not None or idle

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self._fatal = self._fatal or error
            self._changed.notify_all()
        self._tell(error)
