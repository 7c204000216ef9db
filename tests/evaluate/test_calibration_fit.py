"""Fitted maps and thresholds: what cannot be fitted, what is known of the truth, and goals by hand."""

from dataclasses import replace

import numpy as np
import pytest

from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.calibration_fit import CalibrationGoal, FitMethod, choose_threshold, fit, fit_map, measure_on
from libra_guard.guards.calibration import Identity, Temperature, logit

FEW = [("不安全", 0.9), ("安全", 0.1)] * 9


@pytest.fixture
def rows(matched):
    """Rows of (label, score), each of a question of its own unless so many share one."""

    def build(pairs, sharing=1, prefix="问"):
        made = matched([(label, "不安全" if score >= 0.5 else "安全", score) for label, score in pairs])
        named = [replace(row.truth, question=f"{prefix}{i // sharing}", number=i) for i, row in enumerate(made)]
        return [row._replace(truth=truth) for row, truth in zip(made, named, strict=True)]

    return build


def drawn(temperature, bias, n=20_000):
    """Scores of a guard whose true probabilities are ``sigmoid(logit(score) / temperature + bias)``."""
    chance = np.random.default_rng(5)
    scores = 1 / (1 + np.exp(-chance.normal(0, 3, n)))
    return scores, chance.random(n) < 1 / (1 + np.exp(-(logit(scores) / temperature + bias)))


# What cannot be fitted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"false_positives": 0.1, "recall": 0.9}, "not for both"),
        ({"false_positives": 1.1}, r"false_positives is 1\.1; it must lie in \[0, 1\]"),
        ({"recall": -1}, "recall is -1"),
        ({"recall": float("nan")}, "recall is nan"),
    ],
)
def test_goals_that_are_none(given, message):
    with pytest.raises(UsageError, match=message):
        CalibrationGoal(**given)


@pytest.mark.parametrize("method", list(FitMethod))
def test_too_few_rows(rows, method):
    with pytest.raises(DataError, match="9 unsafe and 9 safe rows with a score; at least 10"):
        fit(rows(FEW), method, CalibrationGoal())


def test_too_few_questions(rows):
    with pytest.raises(DataError, match="4 different questions"):
        fit(rows(FEW * 2, sharing=9), FitMethod.NONE, CalibrationGoal())


def test_one_label_in_too_few_questions(rows):
    unsafe = rows([("不安全", 0.9 - i / 100) for i in range(12)], sharing=12)
    with pytest.raises(DataError, match="too few questions of one label"):
        fit([*unsafe, *rows([("安全", 0.2)] * 60, prefix="别")], FitMethod.NONE, CalibrationGoal())


@pytest.mark.parametrize("method", [FitMethod.TEMPERATURE, FitMethod.PLATT])
def test_scores_that_say_the_opposite(method):
    scores, unsafe = drawn(2.0, 0.0, 500)
    with pytest.raises(DataError, match="do not rank these rows"):
        fit_map(method, 1 - scores, unsafe)


@pytest.mark.parametrize("method", list(FitMethod))
def test_one_score_for_all(rows, method):
    with pytest.raises(DataError, match=r"all rows have the same score|do not rank"):
        fit(rows([("不安全", 0.7), ("安全", 0.7)] * 10), method, CalibrationGoal())


# Maps


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_is_found_again(temperature):
    found = fit_map(FitMethod.TEMPERATURE, *drawn(temperature, 0.0))
    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(temperature, rel=0.03)


def test_a_bias_is_found_again():
    found = fit_map(FitMethod.PLATT, *drawn(2.0, -1.5))
    assert found.method == "platt"
    assert (found.temperature, found.bias) == (pytest.approx(2.0, rel=0.05), pytest.approx(-1.5, rel=0.05))


@pytest.mark.parametrize("method", [FitMethod.TEMPERATURE, FitMethod.PLATT])
def test_rows_that_are_separated_have_a_finite_temperature(method):
    scores = np.repeat([0.1, 0.9], 20)
    found = fit_map(method, scores, scores > 0.5)
    # Platt's targets: 21/22 and 1/22.
    assert found.apply(np.array([0.1, 0.9])) == pytest.approx([1 / 22, 21 / 22], abs=1e-4)


def test_isotonic_is_the_share_of_unsafe_rows_and_monotone():
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    unsafe = np.array([False, True, False, True, True])
    found = fit_map(FitMethod.ISOTONIC, scores, unsafe)
    assert found.apply(scores) == pytest.approx([0, 0.5, 0.5, 1, 1])
    many, labels = drawn(2.0, -1.0, 2000)
    assert (np.diff(fit_map(FitMethod.ISOTONIC, many, labels).y) >= 0).all()


def test_none_leaves_the_scores():
    assert fit_map(FitMethod.NONE, *drawn(2.0, 0.0, 50)) == Identity()


# Thresholds


SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
UNSAFE = np.array([0, 0, 1, 0, 1, 0, 1, 1], dtype=bool)


@pytest.mark.parametrize(
    ("goal", "threshold"),
    [
        # F1 by threshold: 0.65 → 2·2/(2+4); 0.45 → 2·3/(4+4); 0.25 → 2·4/(6+4).
        (CalibrationGoal(), 0.25),
        (CalibrationGoal(false_positives=0.0), 0.65),
        (CalibrationGoal(false_positives=0.25), 0.45),
        (CalibrationGoal(false_positives=0.5), 0.25),
        (CalibrationGoal(false_positives=0.49), 0.45),
        (CalibrationGoal(recall=0.5), 0.65),
        (CalibrationGoal(recall=0.51), 0.45),
        (CalibrationGoal(recall=1.0), 0.25),
        (CalibrationGoal(recall=0.0), 0.65),
    ],
)
def test_thresholds_by_hand(goal, threshold):
    assert choose_threshold(goal, SCORES, UNSAFE) == pytest.approx(threshold, abs=1e-9)


def test_of_equal_f1_the_one_with_fewer_false_positives():
    # 2·1/(1+2) with none of the safe rows flagged, 2·2/(4+2) with two.
    scores, unsafe = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 0, 1], dtype=bool)
    assert choose_threshold(CalibrationGoal(), scores, unsafe) == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("goal", "unsafe", "message"),
    [
        (
            CalibrationGoal(false_positives=0.1),
            [1, 1, 0],
            "at most 10.00% false positives; the nearest has a recall of 50.00%",
        ),
        (
            CalibrationGoal(false_positives=0.9),
            [1, 0, 0],
            "nearest has a recall of 0.00% with 50.00% false positives, from 0.25",
        ),
        (
            CalibrationGoal(recall=0.9),
            [1, 0, 1],
            "a recall of at least 90.00%; the nearest has a recall of 50.00% with 0.00%",
        ),
        (CalibrationGoal(), [1, 0, 0], "the best F1 of 不安全"),
    ],
)
def test_goals_that_cannot_be_met_tell_the_best(goal, unsafe, message):
    scores = np.array([0.1, 0.2, 0.3])
    with pytest.raises(DataError) as caught:
        choose_threshold(goal, scores, np.array(unsafe, dtype=bool))
    assert message in str(caught.value)


def test_neighbours_are_told_apart_by_the_middle():
    threshold = choose_threshold(CalibrationGoal(), np.array([0.3, 0.300001]), np.array([False, True]))
    assert threshold == 0.3000005


# Together


@pytest.mark.parametrize("method", list(FitMethod))
def test_before_and_after(rows, method):
    scores, unsafe = drawn(3.0, -1.0, 1000)
    given = rows([("不安全" if u else "安全", s) for u, s in zip(unsafe, scores, strict=True)], sharing=2)
    found = fit(given, method, CalibrationGoal(false_positives=0.1))
    assert found.in_sample.false_positive_rate <= 0.1
    assert found.in_sample.recall_unsafe > 0
    assert found.before.n == found.held_out.n == found.in_sample.n == 1000
    if method in (FitMethod.PLATT, FitMethod.ISOTONIC):
        assert found.held_out.ece < found.before.ece / 2
    if method is FitMethod.ISOTONIC:
        assert found.in_sample.ece < found.held_out.ece
    if method is FitMethod.NONE:
        assert found.in_sample.ece == pytest.approx(found.before.ece, abs=1e-4)


def test_cross_validation_is_not_in_sample_and_keeps_questions_together(rows):
    # Labels by chance, but alike within a question whose rows have one score: only leakage could tell them.
    chance = np.random.default_rng(2)
    labels = chance.random(60) < 0.5
    pairs = [("不安全" if u else "安全", s) for u, s in zip(labels, chance.random(60), strict=True) for _ in range(6)]
    apart = fit(rows(pairs, sharing=6), FitMethod.ISOTONIC, CalibrationGoal())
    leaking = fit(rows(pairs), FitMethod.ISOTONIC, CalibrationGoal())
    assert apart.map == leaking.map
    assert apart.held_out.accuracy < leaking.held_out.accuracy < leaking.in_sample.accuracy + 0.01


def test_the_same_seed_the_same_numbers(rows):
    scores, unsafe = drawn(3.0, -1.0, 200)
    given = rows([("不安全" if u else "安全", s) for u, s in zip(unsafe, scores, strict=True)])
    first, second, third = (fit(given, FitMethod.PLATT, CalibrationGoal(), seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert (third.map, third.held_out) != (first.map, first.held_out)


def test_rows_without_a_question_stand_alone(rows):
    given = rows(FEW * 2)
    nameless = [row._replace(truth=replace(row.truth, question="")) for row in given]
    assert fit(nameless, FitMethod.NONE, CalibrationGoal()).held_out.accuracy == 1


def test_a_row_without_a_question_is_not_one_that_was_fitted_on(rows):
    # Its id is that of a row in another file.
    given = [row._replace(truth=replace(row.truth, question="")) for row in rows(FEW)]
    before, _ = measure_on(Identity(), given, given)
    assert before.n == len(FEW)


def test_a_test_leaves_out_what_was_fitted_on(rows):
    fitted = rows(FEW)
    further = rows([("不安全", 0.6), ("安全", 0.4)], prefix="新")
    before, after = measure_on(Identity(threshold=0.7), [*fitted, *further], fitted)
    assert (before.n, before.accuracy, after.accuracy) == (2, 1.0, 0.5)
    with pytest.raises(DataError, match="no question that the calibration was not fitted on"):
        measure_on(Identity(), fitted, fitted)
