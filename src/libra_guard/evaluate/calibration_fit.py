"""Fitting a guard's calibration on labelled verdicts: a map of its scores, and a threshold for a goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends._options import shares
from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.metrics import Bools, Metrics, Outcomes, decide, measure
from libra_guard.evaluate.predictions import Matched
from libra_guard.evaluate.rules import Rules
from libra_guard.guards.calibration import DIGITS, Identity, Isotonic, Platt, ScoreMap, Scores, Temperature, logit

FOLDS = 5
"""Of the cross-validation."""
FEWEST = 10
"""Rows of each label that are fitted on."""
_STEEPEST = 100.0
"""Slopes of the logit beyond this, or below its inverse, are not fitted: such scores do not rank the rows."""


class FitMethod(StrEnum):
    """How scores are mapped; see the maps in ``guards.calibration``."""

    TEMPERATURE = "temperature"
    PLATT = "platt"
    ISOTONIC = "isotonic"
    NONE = "none"


@dataclass(frozen=True)
class CalibrationGoal:
    """What a threshold is chosen for: the best F1 of 不安全, or one of the two where it is given; in [0, 1]."""

    false_positives: float | None = None
    """At most so large a share of the safe rows is flagged, and of the unsafe ones as many as can be."""
    recall: float | None = None
    """At least so large a share of the unsafe rows is flagged, and of the safe ones as few as can be."""

    def __post_init__(self) -> None:
        if self.false_positives is not None and self.recall is not None:
            raise UsageError("a threshold is chosen for a share of false positives or for a recall, not for both")
        shares(false_positives=self.false_positives, recall=self.recall)

    def __str__(self) -> str:
        if self.false_positives is not None:
            return f"at most {self.false_positives:.2%} false positives"
        return "the best F1 of 不安全" if self.recall is None else f"a recall of at least {self.recall:.2%}"


@dataclass(frozen=True)
class Fitted:
    """A map with its threshold, and what it changes."""

    map: ScoreMap
    before: Metrics
    """As the guard judged."""
    held_out: Metrics
    """With maps and thresholds that were fitted on the other questions (cross-validation)."""
    in_sample: Metrics
    """With the map itself, on the rows that it was fitted on: optimistic."""


def fit(rows: Sequence[Matched], method: FitMethod, goal: CalibrationGoal, *, seed: int = 42) -> Fitted:
    """Fits a map and its threshold, and measures both on questions that they were not fitted on.

    Args:
        rows: Labelled verdicts with scores. Those of one question stay together in the cross-validation.
        method: Of the map.
        goal: Of the threshold.
        seed: Of the cross-validation's parts.

    Raises:
        DataError: There are too few rows or questions, the scores do not rank the rows, or the goal cannot be met.
    """
    outcomes = decide(rows, Rules())
    check_enough(outcomes, "rows with a score")
    found = fit_map(method, outcomes.score, outcomes.unsafe)
    threshold = choose_threshold(goal, found.apply(outcomes.score), outcomes.unsafe)
    found = found.model_copy(update={"threshold": threshold})
    held_out = _cross_validated(outcomes, _groups(rows), method, goal, seed)
    return Fitted(found, measure(outcomes), measure(held_out), measure(_mapped(outcomes, found)))


def check_enough(rows: Outcomes, what: str) -> None:
    """Sees to it that there are ``FEWEST`` rows of each label.

    Args:
        rows: To be fitted on.
        what: They are, in words.

    Raises:
        DataError: There are fewer.
    """
    n_unsafe, n_safe = int(rows.unsafe.sum()), int((~rows.unsafe).sum())
    if min(n_unsafe, n_safe) < FEWEST:
        raise DataError(f"{n_unsafe} unsafe and {n_safe} safe {what}; at least {FEWEST} of each are needed")


def measure_on(found: ScoreMap, rows: Sequence[Matched], fitted_on: Sequence[Matched]) -> tuple[Metrics, Metrics]:
    """Measures a map on further rows, without those whose question it was fitted on: before and after.

    Raises:
        DataError: None is left.
    """
    # A row that tells no question has its key for it, which may be another row's in another file.
    seen = {row.truth.group for row in fitted_on if row.truth.question}
    unseen = [row for row in rows if row.truth.group not in seen]
    if not unseen:
        raise DataError("the test rows have no question that the calibration was not fitted on")
    outcomes = decide(unseen, Rules())
    return measure(outcomes), measure(_mapped(outcomes, found))


def fit_map(method: FitMethod, scores: Scores, unsafe: Bools) -> ScoreMap:
    """Fits the map alone; its threshold is 0.5.

    Temperature and bias minimise the log loss, with Platt's targets (1999), ``(n₊ + 1) / (n₊ + 2)`` of unsafe rows and
    ``1 / (n₋ + 2)`` of safe ones, which keep them finite where a score separates the rows.

    Args:
        method: Of the map.
        scores: Of the guard, shape ``(n,)``.
        unsafe: The labels, shape ``(n,)``; both are there.

    Raises:
        DataError: A higher score does not mean that a row is likelier unsafe.
    """
    if method is FitMethod.NONE:
        return Identity()
    if method is FitMethod.ISOTONIC:
        from sklearn.isotonic import IsotonicRegression

        table = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, unsafe.astype(float))
        return Isotonic(x=table.X_thresholds_.tolist(), y=table.y_thresholds_.tolist())
    from sklearn.linear_model import LogisticRegression

    # A row whose target lies between the labels stands there as both, weighted.
    n_unsafe, n_safe = unsafe.sum(), (~unsafe).sum()
    wanted = np.where(unsafe, (n_unsafe + 1) / (n_unsafe + 2), 1 / (n_safe + 2))
    model = LogisticRegression(C=np.inf, fit_intercept=method is FitMethod.PLATT, tol=1e-8, max_iter=1000)
    model.fit(
        np.tile(logit(scores), 2)[:, None],
        np.repeat([True, False], len(scores)),
        sample_weight=np.concatenate([wanted, 1 - wanted]),
    )
    slope = float(model.coef_[0, 0])
    if not 1 / _STEEPEST < slope < _STEEPEST:
        raise DataError("the scores do not rank these rows: a higher one does not mean that a row is likelier unsafe")
    if method is FitMethod.TEMPERATURE:
        return Temperature(temperature=1 / slope)
    return Platt(temperature=1 / slope, bias=float(model.intercept_[0]))


def choose_threshold(goal: CalibrationGoal, scores: Scores, unsafe: Bools) -> float:
    """The threshold that reaches a goal best.

    It lies in the middle between two neighbouring scores, so that no rounding moves a row across it. One that flags
    every row or none is not considered.

    Args:
        goal: Chosen for.
        scores: Calibrated, with six decimals, shape ``(n,)``.
        unsafe: The labels, shape ``(n,)``; both are there.

    Raises:
        DataError: The goal cannot be met; the message tells the best that can be reached.
    """
    threshold, recall, false_positives = _nearest(goal, scores, unsafe)
    met = recall > 0
    if goal.false_positives is not None:
        met = met and false_positives <= goal.false_positives
    if goal.recall is not None:
        met = recall >= goal.recall
    if not met:
        reached = f"a recall of {recall:.2%} with {false_positives:.2%} false positives, from {threshold:.6g} on"
        raise DataError(f"no threshold gives {goal}; the nearest has {reached}")
    return threshold


def _nearest(goal: CalibrationGoal, scores: Scores, unsafe: Bools) -> tuple[float, float, float]:
    """The threshold that comes nearest to a goal, its recall and its share of false positives."""
    values, places = np.unique(scores, return_inverse=True)
    if len(values) < 2:
        raise DataError("all rows have the same score: no threshold tells them apart")
    # Rows at each score or above, but for the lowest: what a threshold right below it flags.
    hits = np.bincount(places, unsafe)[::-1].cumsum()[-2::-1]
    flagged = np.bincount(places)[::-1].cumsum()[-2::-1]
    recall, rate = hits / unsafe.sum(), (flagged - hits) / (~unsafe).sum()
    # Of several sort keys the last comes first.
    if goal.recall is not None:
        order = np.lexsort((-recall, rate, np.maximum(0, goal.recall - recall)))
    elif goal.false_positives is not None:
        order = np.lexsort((rate, -recall, np.maximum(0, rate - goal.false_positives)))
    else:
        order = np.lexsort((rate, -2 * hits / (flagged + unsafe.sum())))
    best = order[0]
    middle = round(float(values[best] + values[best + 1]) / 2, DIGITS + 1)
    return middle, float(recall[best]), float(rate[best])


def _mapped(outcomes: Outcomes, found: ScoreMap) -> Outcomes:
    scores = found.apply(outcomes.score)
    return replace(outcomes, score=scores, flagged=scores >= found.threshold)


def _cross_validated(
    outcomes: Outcomes, groups: NDArray[Any], method: FitMethod, goal: CalibrationGoal, seed: int
) -> Outcomes:
    """Each part of the questions judged by what was fitted on the others."""
    from sklearn.model_selection import StratifiedGroupKFold

    if (questions := len(np.unique(groups))) < FOLDS:
        raise DataError(f"{questions} different questions; cross-validation needs at least {FOLDS}")
    scores, flagged = outcomes.score.copy(), outcomes.flagged.copy()
    parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, judged in parts.split(scores, outcomes.unsafe, groups):
        unsafe = outcomes.unsafe[fitted]
        if unsafe.all() or not unsafe.any():
            raise DataError("too few questions of one label: without some of them, cross-validation has none to fit on")
        found = fit_map(method, outcomes.score[fitted], unsafe)
        # A part alone may miss the goal that all meet: the nearest shows what comes of it.
        threshold, *_ = _nearest(goal, found.apply(outcomes.score[fitted]), unsafe)
        scores[judged] = found.apply(outcomes.score[judged])
        flagged[judged] = scores[judged] >= threshold
    return replace(outcomes, score=scores, flagged=flagged)


def _groups(rows: Sequence[Matched]) -> NDArray[np.int_]:
    """A number for each question."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row.truth.group, len(numbers)) for row in rows])
