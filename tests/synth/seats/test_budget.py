from __future__ import annotations

import pytest

from libra_guard.synth.seats.budget import FREE, Budget, BudgetSettings, BudgetSpentError, Pace, Price, Usage

PAID = Price(input=0, output=1)


@pytest.mark.parametrize(
    ("settings", "spent", "enough"),
    [
        ({}, Usage(9, 10**9, 10**9, 10**6), False),
        ({"tokens": 0}, Usage(), True),
        ({"tokens": 10}, Usage(1, 6, 3), False),
        ({"tokens": 10}, Usage(1, 6, 4), True),
        ({"money": 0}, Usage(), True),
        ({"money": 1.5}, Usage(1, 0, 0, 1.4), False),
        ({"money": 1.5}, Usage(1, 0, 0, 1.5), True),
    ],
)
def test_a_limit_ends_the_run_when_it_is_reached(settings: dict[str, float], spent: Usage, enough: bool) -> None:
    for budget in (Budget(BudgetSettings(**settings), spent), Budget(BudgetSettings(**settings))):
        if budget._tokens == 0 and budget._money == 0:
            budget.spend(spent)
        if enough:
            with pytest.raises(BudgetSpentError, match="raise the budget and run again"):
                budget.check(PAID)
        else:
            budget.check(PAID)


def test_a_price_is_for_a_million_tokens() -> None:
    assert Price(input=2, output=8).of(500_000, 250_000) == 3.0


def test_calls_are_spaced_evenly() -> None:
    now = [100.0]
    pace = Pace(30, clock=lambda: now[0])
    assert pace.take() == 0
    now[0] += 0.5
    assert [pace.take(), pace.take()] == [1.5, 1.5]
    now[0] += 1.5
    assert [pace.take(), pace.take()] == [0, 2]
    now[0] += 60
    assert [pace.take(), pace.take()] == [0, 2]


@pytest.mark.parametrize("a_minute", [None, 60])
def test_nothing_is_asked_in_a_pause(a_minute: float | None) -> None:
    now = [100.0]
    pace = Pace(a_minute, clock=lambda: now[0])
    pace.pause(30)
    pace.pause(10)
    assert pace.take() == 30
    now[0] += 30
    assert pace.take() == 0


def test_what_costs_nothing_needs_no_money() -> None:
    budget = Budget(BudgetSettings(money=0))
    budget.check(FREE)
    for price in (Price(input=1, output=0), PAID):
        with pytest.raises(BudgetSpentError, match="the budget of 0"):
            budget.check(price)
    with pytest.raises(BudgetSpentError, match="tokens"):
        Budget(BudgetSettings(tokens=0)).check(FREE)


def test_without_a_pace_nobody_waits() -> None:
    pace = Pace(None, clock=lambda: 1.0)
    assert [pace.take(), pace.take()] == [0, 0]
