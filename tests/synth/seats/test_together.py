from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, HaltedError
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.endpoints import Endpoint
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.together import Halt, Task, side_by_side

SECONDS = 20
"""A wait that a right program never sits out."""


def meets(barrier: threading.Barrier, name: str) -> Callable[[], str]:
    def work() -> str:
        barrier.wait(SECONDS)
        return name

    return work


def test_lanes_run_at_the_same_time_and_keep_their_order() -> None:
    barrier = threading.Barrier(3)
    tasks = [Task("a", meets(barrier, "first")), Task(None, meets(barrier, "own")), Task("b", meets(barrier, "last"))]
    assert side_by_side(tasks, Halt()) == ["first", "own", "last"]


@pytest.mark.parametrize("lane", [None, "server"])
def test_tasks_of_one_lane_are_done_in_turn(lane: str | None) -> None:
    under_way: list[int] = []

    def work(number: int) -> int:
        under_way.append(number)
        assert under_way == [number]
        threading.Event().wait(0.01)
        under_way.remove(number)
        return number

    tasks = [Task(lane, lambda number=number: work(number)) for number in range(4)]
    assert side_by_side(tasks, Halt()) == [0, 1, 2, 3]


def test_what_runs_in_this_process_runs_in_the_main_thread() -> None:
    assert side_by_side([Task(None, threading.current_thread)], Halt()) == [threading.main_thread()]


def test_nothing_to_do() -> None:
    assert side_by_side([], Halt()) == []


def halted(halt: Halt, ended: list[str]) -> Callable[[], None]:
    """Works on until it is told to end."""

    def work() -> None:
        for _ in range(SECONDS * 100):
            try:
                halt.check()
            except HaltedError:
                ended.append("ended")
                raise
            threading.Event().wait(0.01)

    return work


@pytest.mark.parametrize("failing", ["a", None])
def test_the_first_error_ends_the_others_and_is_told(failing: str | None) -> None:
    halt, ended = Halt(), []

    def fails() -> None:
        raise BackendError("gone")

    with pytest.raises(BackendError, match="gone"):
        side_by_side([Task("b", halted(halt, ended)), Task(failing, fails)], halt)
    assert ended == ["ended"]


def test_an_interrupt_ends_the_work_of_all_lanes() -> None:
    halt, ended, both = Halt(), [], threading.Barrier(2)

    def works() -> None:
        both.wait(SECONDS)
        halted(halt, ended)()

    def interrupts() -> None:
        both.wait(SECONDS)
        _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        side_by_side([Task("a", works), Task("b", interrupts)], halt)
    assert ended == ["ended"]


def test_a_task_after_the_end_is_not_begun() -> None:
    halt, begun = Halt(), []

    def fails() -> None:
        raise BackendError("gone")

    with pytest.raises(BackendError, match="gone"):
        side_by_side([Task("a", fails), Task("a", lambda: begun.append(1))], halt)
    assert begun == []


def test_a_model_that_waits_for_its_turn_sees_the_end(tmp_path: Path) -> None:
    """An endpoint that rests for minutes must not hold up a run that is over."""
    halt, resting = Halt(), threading.Event()

    class Rests(Endpoint):
        def __init__(self, backend: Any) -> None:
            super().__init__(backend)
            self.pace = self

        def take(self) -> float:
            resting.set()
            return 600.0

    def fails() -> None:
        assert resting.wait(SECONDS)
        raise BackendError("gone")

    with CallStore(tmp_path / "calls.sqlite") as store:
        places = [Rests(ScriptedBackend(generate=lambda _: "text"))]
        model = StoredBackend("m", {"model": "m"}, places, store, Budget(BudgetSettings()), halt=halt)
        asks = Task("a", lambda: model.attempt([Prompt.from_user("text")]))
        with pytest.raises(BackendError, match="gone"):
            side_by_side([asks, Task("b", fails)], halt)
        assert len(store) == 0
