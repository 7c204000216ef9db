"""Endpoints that are busy or away for minutes, by a clock that goes on by a second with every look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, BusyError, DeniedError, RefusedError, ServerError, StoppedError
from libra_guard.synth.seats import endpoints
from libra_guard.synth.seats.budget import Pace
from libra_guard.synth.seats.endpoints import Endpoint, EndpointsLostError, Queue

REST = 30.0
Answers = Callable[[float], None]
"""Raises what a server says at that second."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    # Who rests looks at the clock again at once.
    monkeypatch.setattr(endpoints, "_LOOK", 0.0)
    return Clock()


class Calls:
    """Asks for some rows one by one, and notes when which endpoint was asked for which."""

    def __init__(self, clock: Clock, *answers: Answers, wait: float = 600.0, patience: int = 3) -> None:
        self._clock, self._patience = clock, patience
        self._answers = dict(enumerate(answers))
        self.places = [
            Endpoint(ScriptedBackend(generate=[]), Pace(None, clock=clock), rest=REST, wait=wait, answered=True)
            for _ in answers
        ]
        self.times: list[float] = []
        self.done: list[tuple[int, int]] = []

    def ask(self, rows: int = 3) -> list[tuple[list[int], BackendError]]:
        queue = Queue("m", self.places, patience=self._patience, check=lambda: None, run=self._run, end=lambda _: None)
        return queue.do([[row] for row in range(rows)])

    def _run(self, endpoint: Endpoint, rows: list[int]) -> None:
        number = next(i for i, one in enumerate(self.places) if one is endpoint)
        self.times.append(self._clock.now)
        self._answers[number](self._clock.now)
        self.done += [(number, row) for row in rows]

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def busy_until(second: float, **about: float) -> Answers:
    def answers(now: float) -> None:
        if now < second:
            raise BusyError("429: slow down", **about)

    return answers


@pytest.mark.parametrize(("about", "pause"), [({}, REST), ({"after": 90.0}, 90.0), ({"after": 0.0}, 0.0)])
def test_a_server_that_is_busy_for_minutes_costs_no_row_and_is_left_alone_as_long_as_it_asks(
    clock: Clock, about: dict[str, float], pause: float
) -> None:
    calls = Calls(clock, busy_until(400, **about))
    assert calls.ask() == []
    assert sorted(calls.done) == [(0, 0), (0, 1), (0, 2)]
    waits = calls.pauses[: -len(calls.done)]
    assert all(pause <= one <= pause + 9 for one in waits)
    assert calls.times[-1] >= 400


def test_one_that_never_comes_back_is_given_up_and_its_rows_are_nobodys_failure(clock: Clock) -> None:
    calls = Calls(clock, busy_until(10**6), wait=600)
    with pytest.raises(
        EndpointsLostError,
        match=r"^models\.m: no endpoint answers any more, no answer for 600 seconds \(wait\): 429: slow down; what was "
        "answered is kept: run again to go on",
    ):
        calls.ask()
    # The last pause ends with the patience, not beyond it.
    assert 600 <= calls.times[-1] < 600 + REST
    assert calls.done == []


def test_one_that_asks_for_more_than_it_is_waited_for_is_given_up_at_once(clock: Clock) -> None:
    calls = Calls(clock, busy_until(10**6, after=3600.0))
    with pytest.raises(EndpointsLostError, match=r"it asks to be left alone for 3600 seconds, longer than .* \(wait\)"):
        calls.ask()
    assert len(calls.times) == 1


@pytest.mark.parametrize("between", [None, RefusedError("400: a content filter")])
def test_any_answer_begins_the_waiting_anew(clock: Clock, between: BackendError | None) -> None:
    spoken: list[float] = []

    def answers(now: float) -> None:
        if now >= 400 and not spoken:
            spoken.append(now)
            if between:
                raise between
        elif now < 900:
            raise BusyError("503: warming up")

    calls = Calls(clock, answers)
    failed = calls.ask()
    assert [str(error) for _, error in failed] == ([str(between)] if between else [])
    assert len(calls.done) + len(failed) == 3


def test_the_waiting_begins_with_the_call_or_the_last_answer_and_not_when_the_call_is_given_up(clock: Clock) -> None:
    endpoint = Endpoint(ScriptedBackend(generate=[]), Pace(None, clock=clock), rest=REST, wait=600, answered=True)
    clock.now = 699
    endpoint.busy(0, 100.0, BusyError("429"))
    assert endpoint.gone
    endpoint = Endpoint(ScriptedBackend(generate=[]), Pace(None, clock=clock), rest=REST, wait=600, answered=True)
    clock.now = 400
    endpoint.answers()
    clock.now = 699
    endpoint.busy(0, 100.0, BusyError("429"))
    assert not endpoint.gone


def test_what_a_busy_endpoint_does_not_take_another_one_does(clock: Clock) -> None:
    calls = Calls(clock, busy_until(10**6), busy_until(0))
    assert calls.ask(6) == []
    assert sorted(calls.done) == [(1, row) for row in range(6)]


def test_calls_that_meet_one_outage_are_one(clock: Clock) -> None:
    endpoint = Endpoint(ScriptedBackend(generate=[]), Pace(None, clock=clock), rest=REST, answered=True)
    for _ in range(16):
        endpoint.busy(0, 0.0, BusyError("429", after=100.0))
    assert endpoint.outages == 1
    assert endpoint.pace.take() > 80


DENIED, LOST, FAILED = DeniedError("401: a wrong key"), ServerError("500: crash"), BackendError("no memory left")


@pytest.mark.parametrize(
    ("ends", "goes_on"),
    [([DENIED], False), ([FAILED], False), ([LOST], True), ([DENIED, LOST], True), ([DENIED, FAILED], False)],
    ids=lambda one: "-".join(map(str, one)) if isinstance(one, list) else str(one),
)
def test_a_run_that_no_repetition_mends_is_not_told_to_be_repeated(
    clock: Clock, ends: list[BackendError], goes_on: bool
) -> None:
    def answering(error: BackendError) -> Answers:
        def answers(_: float) -> None:
            raise error

        return answers

    calls = Calls(clock, *map(answering, ends), patience=2)
    with pytest.raises(EndpointsLostError, match="what was answered is kept: ") as caught:
        calls.ask(9)
    assert isinstance(caught.value, StoppedError) == goes_on
    assert ("mend this, and run again" in str(caught.value)) != goes_on


@pytest.mark.parametrize("answered", [True, False])
def test_an_address_where_nobody_ever_answered_is_not_waited_for(clock: Clock, answered: bool) -> None:
    calls = Calls(clock, busy_until(10**6, there=False), patience=3)
    calls.places[0].answered = answered
    with pytest.raises(EndpointsLostError, match=r"no answer for 600" if answered else r"3 failures in a row"):
        calls.ask(1)
    assert (len(calls.times) == 3) != answered


def test_an_answer_that_was_under_way_takes_the_endpoint_back(clock: Clock) -> None:
    endpoint = Endpoint(ScriptedBackend(generate=[]), Pace(None, clock=clock), wait=0, answered=True)
    endpoint.busy(0, 0.0, BusyError("429"))
    assert endpoint.given_up(3)
    assert endpoint.answers()
    assert not endpoint.given_up(3)
