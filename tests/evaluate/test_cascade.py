"""Limits of a cascade: the best there are, what is held out, and goals that cannot be reached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.data.base import question_bucket
from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate import cascade as module
from libra_guard.evaluate.cascade import FOLDS, CascadeGoal, Figures, Rows, choose, fit
from libra_guard.evaluate.predictions import Key, Labelled, Matched, Prediction
from libra_guard.guards.cascade import Limits
from libra_guard.records import Label

SAFE, UNSAFE, DOUBTFUL = Label.SAFE, Label.UNSAFE, Label.CONTROVERSIAL
Row = tuple[Label | None, float | None, Label | None, bool]
"""The fast guard's label and score, the strong one's label, whether the text is unsafe."""


def sides(rows: Sequence[Row], questions: Sequence[str] | None = None) -> tuple[list[Matched], list[Matched]]:
    fast, strong = [], []
    for i, (label, score, strong_label, unsafe) in enumerate(rows):
        question = f"问题{i}" if questions is None else questions[i]
        truth = Labelled(Key(str(i), None), "s", "c", unsafe, i, question)
        fast.append(Matched(truth, Prediction(truth.key, label, score)))
        strong.append(Matched(truth, Prediction(truth.key, strong_label, None)))
    return fast, strong


def built(rows: Sequence[Row]) -> Rows:
    return module._rows(*sides(rows))


def outcome(rows: Sequence[Row], limits: Limits) -> tuple[int, int]:
    """Rows that the strong guard is asked, and rows decided rightly, told one by one."""
    asked = right = 0
    for label, score, strong, unsafe in rows:
        stands = score is not None and (
            (label is SAFE and score < limits.safe_below) or (label is UNSAFE and score >= limits.unsafe_from)
        )
        asked += not stands
        right += ((label if stands else strong) is not SAFE) == unsafe
    return asked, right


# Goals


@pytest.mark.parametrize("goal", [{}, {"calls": -0.1}, {"calls": 1.1}, {"lose": 2}, {"lose": float("nan")}])
def test_goals_that_make_no_sense(goal: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"must lie in|is fitted to"):
        CascadeGoal(**goal)


GOOD: list[Row] = [(SAFE, 0.1, SAFE, False)] * 4 + [(UNSAFE, 0.9, UNSAFE, True)] * 4
WRONG: list[Row] = [(SAFE, 0.4, UNSAFE, True), (UNSAFE, 0.6, SAFE, False)]


@pytest.mark.parametrize(
    ("goal", "expected", "asked"),
    [
        (CascadeGoal(lose=0), (0.2, 0.8), 0.2),
        (CascadeGoal(lose=0.1), (0.2, 0.5), 0.1),
        (CascadeGoal(lose=0.2), (0.4, 0.6), 0.0),
        (CascadeGoal(calls=0.2), (0.2, 0.8), 0.2),
        (CascadeGoal(calls=0.1), (0.2, 0.5), 0.1),
        (CascadeGoal(calls=0), (0.4, 0.6), 0.0),
        (CascadeGoal(calls=1), (0.2, 0.8), 0.2),
        (CascadeGoal(calls=0.25, lose=0), (0.2, 0.8), 0.2),
    ],
)
def test_the_limits_that_reach_a_goal(goal: CascadeGoal, expected: tuple[float, float], asked: float) -> None:
    limits = choose(built(GOOD + WRONG), goal)
    assert outcome(GOOD + WRONG, limits)[0] == asked * 10
    # Thirds of the gaps between 0.1, 0.4, 0.6 and 0.9.
    assert (limits.safe_below, limits.unsafe_from) == pytest.approx(expected, abs=0.07)


def test_a_share_of_rows_is_not_missed_by_rounding() -> None:
    # 0.29 of 100 is a little less than 29 in floats.
    rows: list[Row] = [(SAFE, 0.1, SAFE, False)] * 71 + [(None, None, SAFE, False)] * 29
    assert outcome(rows, choose(built(rows), CascadeGoal(calls=0.29))) == (29, 100)


def test_a_goal_for_both_spends_the_calls_on_accuracy() -> None:
    assert choose(built(GOOD + WRONG), CascadeGoal(calls=0.5, lose=0.2)) == choose(
        built(GOOD + WRONG), CascadeGoal(calls=0.5)
    )


@pytest.mark.parametrize(
    ("rows", "goal", "message"),
    [
        (
            GOOD + WRONG,
            CascadeGoal(calls=0.1, lose=0),
            r"with 10\.0% of the calls .* loses 10\.00% .* 0\.00%; .*20\.0% are needed",
        ),
        (
            [(None, None, SAFE, False)] * 3,
            CascadeGoal(calls=0.5),
            r"asked 100\.0% of the rows at the least, and not 50\.0%",
        ),
        # A score of 1 is beyond every limit.
        (
            [(UNSAFE, 1.0, SAFE, False)] * 2,
            CascadeGoal(lose=0.5),
            r"loses 100\.00% of accuracy at the least, and not 50\.00%",
        ),
    ],
)
def test_goals_that_cannot_be_reached(rows: list[Row], goal: CascadeGoal, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(built(rows), goal)


# The best limits


labels = st.sampled_from([SAFE, UNSAFE, DOUBTFUL, None])
rows_of_any_kind = st.lists(
    st.tuples(labels, st.one_of(st.none(), st.integers(0, 6).map(lambda i: i / 6)), labels, st.booleans()),
    min_size=1,
    max_size=14,
)


@settings(deadline=None)
@given(rows_of_any_kind, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.booleans())
def test_no_other_limits_are_better(rows: list[Row], share: float, by_calls: bool) -> None:
    n = len(rows)
    strong_right = sum((strong is not SAFE) == unsafe for _, _, strong, unsafe in rows)
    # Between the sixths of the scores, so that every cut of them is among these.
    edges = sorted({i / 6 + d for i in range(7) for d in (0.0, 0.05, 0.1)})
    pairs = [Limits(safe_below=a, unsafe_from=b) for a, b in product(edges, edges) if a < b and a < 1 and b <= 1]
    all_of_them = [outcome(rows, limits) for limits in pairs]
    if by_calls:
        able = [(asked, -right) for asked, right in all_of_them if asked <= share * n + 1e-9]
        best = min(able, key=lambda pair: (pair[1], pair[0]), default=None)
        goal = CascadeGoal(calls=share)
    else:
        able = [(asked, -right) for asked, right in all_of_them if right >= strong_right - share * n - 1e-9]
        best = min(able, default=None)
        goal = CascadeGoal(lose=share)
    if best is None:
        with pytest.raises(UsageError):
            choose(built(rows), goal)
        return
    asked, right = outcome(rows, choose(built(rows), goal))
    assert (asked, -right) == best


def test_of_equals_the_strong_guard_keeps_what_no_row_shows() -> None:
    limits = choose(built(GOOD), CascadeGoal(calls=0))
    assert (limits.safe_below, limits.unsafe_from) == (pytest.approx(0.1 + 0.8 / 3), pytest.approx(0.1 + 1.6 / 3))


def test_very_many_scores_are_taken_by_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CUTS", 11)
    chance = np.random.default_rng(5)
    rows: list[Row] = []
    for score in chance.uniform(0, 1, 3000).tolist():
        unsafe = bool(chance.random() < score)
        rows.append((UNSAFE if score >= 0.5 else SAFE, score, UNSAFE if unsafe else SAFE, unsafe))
    both = built(rows)
    low, high, asked, _ = module._pairs(both)
    assert (len(low), len(high), asked.shape) == (12, 12, (12, 12))
    assert np.abs(np.diff(low[1:]) - 0.1).max() < 0.03
    asked_rows, right = outcome(rows, choose(both, CascadeGoal(calls=0.5)))
    assert asked_rows <= 1500
    assert right > 0.9 * len(rows)


# What is measured


def test_figures() -> None:
    rows = [*GOOD, *WRONG, (None, None, None, True), (DOUBTFUL, 0.5, SAFE, False)] * 2
    found = fit(*sides(rows), CascadeGoal(lose=0))
    assert (found.rows, found.questions) == (24, 24)
    assert found.fast.accuracy == pytest.approx(9 / 12)
    assert (found.strong.accuracy, found.in_sample.accuracy) == (1, 1)
    assert (found.fast.calls, found.strong.calls, found.in_sample.calls) == (0, 1, pytest.approx(4 / 12))
    assert found.fast.false_positive_rate == pytest.approx(2 / 6)
    assert found.in_sample.f1_unsafe == 1


def test_rows_of_one_question_are_on_one_side() -> None:
    # Of one question the fast guard is wrong where its scores are alone. Limits that have not seen it let it stand.
    rows: list[Row] = [(SAFE, 0.1 + i / 1000, SAFE, False) for i in range(60)] + [(SAFE, 0.4, UNSAFE, True)] * 10
    questions = [f"问题{i}" for i in range(60)] + ["又一个问题？", "又一个问题"] * 5
    found = fit(*sides(rows, questions), CascadeGoal(lose=0))
    assert (found.in_sample.accuracy, found.in_sample.calls) == (1, pytest.approx(10 / 70))
    assert (found.cross_validated.accuracy, found.cross_validated.calls) == (pytest.approx(60 / 70), 0)
    assert (found.comparison.only_first_right, found.comparison.only_second_right) == (0, 10)
    apart = fit(*sides(rows), CascadeGoal(lose=0))
    assert apart.cross_validated == apart.in_sample


def test_folds_do_not_follow_the_split_of_the_data() -> None:
    dev = [q for i in range(2000) if question_bucket(q := f"问题{i}") == 8]
    assert len({question_bucket(question, FOLDS) for question in dev}) == FOLDS


def test_a_part_that_falls_short_of_the_goal_is_measured_all_the_same() -> None:
    # The goal is reached on all rows together, and on none without those of the questions held out.
    rows: list[Row] = [(SAFE, 0.1, SAFE, False)] * 20 + [(None, None, UNSAFE, True)] * 20
    other = next(c for c in "乙丙丁戊己" if question_bucket(c, FOLDS) != question_bucket("甲", FOLDS))
    questions = ["甲"] * 20 + [other] * 20
    found = fit(*sides(rows, questions), CascadeGoal(calls=0.5))
    assert isinstance(found.cross_validated, Figures)
    assert (found.in_sample.calls, found.cross_validated.accuracy) == (0.5, 1)


def test_one_question_is_too_few() -> None:
    with pytest.raises(DataError, match="too few questions"):
        fit(*sides(GOOD * 3, ["问"] * 24), CascadeGoal(calls=1))


@pytest.mark.parametrize(("rows", "found"), [(GOOD, "4 unsafe and 4 safe"), (GOOD[:4] * 5, "0 unsafe and 20 safe")])
def test_without_enough_rows_of_both_labels_nothing_is_fitted(rows: list[Row], found: str) -> None:
    with pytest.raises(DataError, match=f"^{found} rows .*at least 10 of each"):
        fit(*sides(rows), CascadeGoal(calls=1))
