from __future__ import annotations

import pytest

from libra_guard.synth.seats.budget import Budget, BudgetSettings, BudgetSpentError, Pace, Price, Usage


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
                budget.check()
        else:
            budget.check()


def test_a_price_is_for_a_million_tokens() -> None:
    assert Price(input=2, output=8).of(500_000, 250_000) == 3.0


def test_calls_are_spaced_evenly() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(30, clock=lambda: now[0], sleep=sleep)
    for _ in range(3):
        pace.wait()
    assert slept == [0, 2, 2]
    now[0] += 60
    pace.wait()
    assert slept[-1] == 0


def test_without_a_pace_nobody_waits() -> None:
    Pace(None, sleep=lambda _: pytest.fail("waited")).wait()
