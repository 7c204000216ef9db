"""Seats asked side by side: each model on servers in a thread of its own, all that runs in this process in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, NamedTuple, TypeVar

from libra_guard.errors import HaltedError

Found = TypeVar("Found")


class Halt:
    """Whether the run is to end: asked before each call of a model, in whatever thread.

    Args:
        say: Told of an interrupt, for people.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say = say
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._ends: list[Callable[[], None]] = []

    def ends(self, end: Callable[[], None]) -> None:
        """Adds what gives up calls that are under way; called once the run is to end."""
        with self._lock:
            self._ends.append(end)
            over = self._told.is_set()
        if over:
            end()

    def tell(self, why: BaseException) -> None:
        """Ends all work: no call begins any more, and servers are not waited for."""
        with self._lock:
            if self._told.is_set():
                return
            self._told.set()
            ends = list(self._ends)
        for end in ends:
            end()
        if isinstance(why, KeyboardInterrupt):
            self._say("stopping: what was answered is kept; run again to go on")

    def check(self) -> None:
        """To be called before each call.

        Raises:
            HaltedError: The run is to end.
        """
        if self._told.is_set():
            raise HaltedError("the run was ended; what was answered is kept: run again to go on")


class Task(NamedTuple, Generic[Found]):
    """What one seat is asked."""

    lane: Hashable | None
    """Tasks of one lane are done in turn, as those of one address are, which is not to be asked for more than the
    settings say. None: the work is done in this process, whose cores or accelerator all such tasks share."""
    work: Callable[[], Found]


def side_by_side(tasks: Sequence[Task[Found]], halt: Halt) -> list[Found]:
    """Does all tasks, and ends them all with the first that fails, or with an interrupt.

    Args:
        tasks: In any order.
        halt: Is told of a failure; the tasks look at it before each call of a model.

    Returns:
        What they found, in their order.

    Raises:
        BaseException: The first error.
    """
    found: dict[int, Found] = {}
    lanes: dict[Hashable | None, list[int]] = {}
    for number, task in enumerate(tasks):
        lanes.setdefault(task.lane, []).append(number)
    errors: list[BaseException] = []

    def do(lane: Hashable | None) -> None:
        try:
            for number in lanes.get(lane, ()):
                halt.check()
                found[number] = tasks[number].work()
        except BaseException as error:
            errors.append(error)
            halt.tell(error)

    served = [lane for lane in lanes if lane is not None]
    # The main thread is where an interrupt arrives; it does what needs no thread, and then waits.
    with ThreadPoolExecutor(max(1, len(served))) as pool:
        try:
            waiting = [pool.submit(do, lane) for lane in served]
            do(None)
            wait(waiting)
        except BaseException as error:
            errors.insert(0, error)
            halt.tell(error)
    if errors:
        # What ended because it was told to is not why.
        raise next((error for error in errors if not isinstance(error, HaltedError)), errors[0])
    return [found[number] for number in range(len(tasks))]
