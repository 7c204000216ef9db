"""Seats asked side by side: each model on servers in a thread of its own, all that runs in this process in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, NamedTuple, TypeVar

from libra_guard.errors import LibraError

Found = TypeVar("Found")


class HaltedError(LibraError):
    """Other work of the run failed or was interrupted, and this one was told to end."""


class Halt:
    """Whether the run is to end: asked before each call of a model, in whatever thread."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def tell(self) -> None:
        """Ends all work after the calls that are under way."""
        self._told.set()

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
    """Tasks of one lane are done in turn, so that a server is not asked for more than its settings say. None: the work
    is done in this process, whose cores or accelerator all such tasks share."""
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
            halt.tell()

    served = [lane for lane in lanes if lane is not None]
    # The main thread is where an interrupt arrives; it does what needs no thread, and then waits.
    with ThreadPoolExecutor(max(1, len(served))) as pool:
        try:
            waiting = [pool.submit(do, lane) for lane in served]
            do(None)
            wait(waiting)
        except BaseException as error:
            errors.insert(0, error)
            halt.tell()
    if errors:
        raise errors[0]
    return [found[number] for number in range(len(tasks))]
