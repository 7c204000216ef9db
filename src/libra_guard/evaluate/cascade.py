"""Limits of a cascade, fitted on labelled rows that both of its guards have judged.

Limits that were chosen on some rows look better on these than on others, so each result is also cross-validated: the
rows of one question, which are alike, are judged by limits that were chosen without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from libra_guard.backends._options import shares
from libra_guard.data.base import question_bucket
from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.calibration_fit import check_enough
from libra_guard.evaluate.metrics import Bools, Outcomes, decide, measure
from libra_guard.evaluate.predictions import Matched
from libra_guard.evaluate.report import join_run
from libra_guard.evaluate.rules import Rules
from libra_guard.evaluate.runs import Run, check_targets, read_run
from libra_guard.evaluate.significance import Comparison, compare
from libra_guard.guards.cascade import Limits
from libra_guard.hub import pinned
from libra_guard.records import Label

FOLDS = 7
"""No divisor of the ten buckets by which data are split, for all questions of one bucket would be in one fold."""
CUTS = 1000
"""So many limits are tried on each side; of more scores, quantiles of them."""
_TINY = 1e-9
"""Of a row: what a share times the number of rows may be wrong by."""
Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class CascadeGoal:
    """What a cascade is to reach. At least one is given."""

    calls: float | None = None
    """Share of the rows, in [0, 1], that the strong guard is asked at most; the accuracy is as high as it can be."""
    lose: float | None = None
    """Accuracy, in [0, 1], lost to the strong guard at most; without ``calls`` it is asked as little as may be."""

    def __post_init__(self) -> None:
        shares(calls=self.calls, lose=self.lose)
        if self.calls is None and self.lose is None:
            raise UsageError("a cascade is fitted to a share of calls, to an accuracy that may be lost, or to both")


class Figures(BaseModel):
    """What a guard, or a cascade, is worth on some rows."""

    accuracy: float
    f1_unsafe: float | None
    false_positive_rate: float | None
    calls: float
    """Share of the rows that the strong guard was asked."""


class Fit(BaseModel):
    """The limits, and what they are worth."""

    limits: Limits
    rows: int
    questions: int
    fast: Figures
    strong: Figures
    in_sample: Figures
    """Of the cascade on the rows that its limits were chosen on."""
    cross_validated: Figures
    """Of limits that were chosen on other questions."""
    comparison: Comparison
    """The cross-validated cascade (first) and the strong guard (second), row by row."""


@dataclass(frozen=True)
class Rows:
    """Both guards on the same rows; arrays of shape ``(n,)``."""

    strong: Outcomes
    fast: Outcomes
    says_safe: Bools
    """Whether the fast guard says safe and has a score, so that its verdict may stand."""
    says_unsafe: Bools
    fold: Numbers

    def __len__(self) -> int:
        return len(self.fold)

    def where(self, mask: Bools) -> Rows:
        """The rows under a mask of shape ``(n,)``."""
        parts = (self.says_safe[mask], self.says_unsafe[mask], self.fold[mask])
        return Rows(self.strong.where(mask), self.fast.where(mask), *parts)

    def stands(self, limits: Limits) -> Bools:
        """Where the fast guard decides."""
        score = self.fast.score
        safe, unsafe = self.says_safe & (score < limits.safe_below), self.says_unsafe & (score >= limits.unsafe_from)
        return safe | unsafe

    def cascade(self, stands: Bools) -> Outcomes:
        """What is decided where the fast guard's verdict stands on some rows."""
        return replace(self.strong, flagged=np.where(stands, self.fast.flagged, self.strong.flagged))


class Runs(NamedTuple):
    """Predictions of both guards, joined with the labels."""

    fast: Run
    strong: Run
    rows: list[Matched]
    """Of the fast guard, on the rows that both have."""
    partners: list[Matched]
    """Of the strong guard, on the same rows."""
    labels: str | Path
    """Where they are; of a hub dataset with the commit."""
    complaints: list[str]
    """What was left out, in words."""


def read_runs(fast: str | Path, strong: str | Path, labels: str | Path, label_field: str | None = None) -> Runs:
    """Reads what both guards said of the rows of a benchmark.

    Args:
        fast: Predictions of the fast guard, as ``libra infer`` wrote them.
        strong: Of the strong one.
        labels: A file in the Libra-Test format, or anything that ``read_rows`` reads.
        label_field: Where its rows keep the label; by default ``label``, which is that of the answers.

    Raises:
        UsageError: A file is missing, the runs judged different things, the shards of one were judged by different
            guards, or both runs by the same one, or the questions were judged and no field was named that has their
            labels.
        DataError: There is no row that both judged.
    """
    runs = read_run(Path(fast)), read_run(Path(strong))
    check_targets(*runs, label_field)
    for run in runs:
        if run.mixed:
            raise UsageError(f"{run.path}: {run.mixed[0]}")
    if runs[0].guard and runs[0].guard == runs[1].guard:
        raise UsageError(f"{fast} and {strong} were judged by the same guard; a cascade is made of two")
    labels = pinned(labels)
    first, second = (join_run(run, labels, label_field) for run in runs)
    partners = {row.truth.number: row for row in second.rows}
    common = [row for row in first.rows if row.truth.number in partners]
    if not common:
        raise DataError(f"{fast} and {strong} have no row of {labels} in common")
    complaints = [
        f"{run.path}: {words}"
        for run, told in zip(runs, (first, second), strict=True)
        for words in told.counts.odd().values()
    ]
    return Runs(*runs, common, [partners[row.truth.number] for row in common], labels, complaints)


def fit(rows: list[Matched], partners: list[Matched], goal: CascadeGoal) -> Fit:
    """Chooses the limits of a cascade.

    Every pair of limits between the fast guard's scores is tried; of more than ``CUTS`` scores, quantiles. A verdict
    of the fast guard stands as in ``CascadeGuard``; an unreadable answer counts as unsafe.

    Args:
        rows: What the fast guard said.
        partners: What the strong guard said of the same rows.
        goal: To be reached.

    Raises:
        UsageError: No limits reach the goal; the message says what can be reached.
        DataError: There are too few questions, or too few rows of a label (see ``check_enough``): with none, the limit
            beyond which the strong guard is not asked would be anywhere.
    """
    both = _rows(rows, partners)
    check_enough(both.fast, "rows that both guards have judged")
    limits = choose(both, goal)
    stands = _cross_validated(both, goal)
    return Fit(
        limits=limits,
        rows=len(both),
        questions=len({row.truth.group for row in rows}),
        fast=_figures(both.fast, 0.0),
        strong=_figures(both.strong, 1.0),
        in_sample=_figures(both.cascade(both.stands(limits)), float((~both.stands(limits)).mean())),
        cross_validated=_figures(both.cascade(stands), float((~stands).mean())),
        comparison=compare(both.cascade(stands), both.strong, resamples=0, seed=0),
    )


def choose(rows: Rows, goal: CascadeGoal) -> Limits:
    """The limits that reach the goal: of several, those between which there are most scores.

    Raises:
        UsageError: There are none.
    """
    found = _nearest(rows, goal)
    lost = found.lost / len(rows)
    if goal.calls is not None and found.asked > _most(rows, goal.calls):
        least = found.asked / len(rows)
        raise UsageError(f"the strong guard is asked {least:.1%} of the rows at the least, and not {goal.calls:.1%}")
    if goal.lose is not None and found.lost > _most(rows, goal.lose):
        told = f"the cascade loses {lost:.2%} of accuracy at the least, and not {goal.lose:.2%}"
        if goal.calls is None:
            raise UsageError(told)
        other = _nearest(rows, CascadeGoal(lose=goal.lose))
        needed = f"; to lose {max(0, other.lost) / len(rows):.2%}, {other.asked / len(rows):.1%} are needed"
        raise UsageError(f"with {goal.calls:.1%} of the calls {told}{needed}")
    return found.limits


class _Found(NamedTuple):
    limits: Limits
    asked: int
    """Rows on which the strong guard is asked."""
    lost: int
    """Rows that it would get right more often than the cascade does; may be negative."""


def _nearest(rows: Rows, goal: CascadeGoal) -> _Found:
    """The limits that reach the goal's first part, calls before accuracy, or come nearest to it."""
    low, high, asked, lost = _pairs(rows)
    possible = low[:, None] < high
    fewest, rightest = asked * (2 * len(rows) + 1) + lost, lost * (len(rows) + 1) + asked
    if goal.calls is not None:
        good, rank, instead = asked <= _most(rows, goal.calls), rightest, fewest
    else:
        good, rank, instead = lost <= _most(rows, goal.lose or 0.0), fewest, rightest
    if not (good & possible).any():
        good, rank = possible, instead
    ranked = np.where(good & possible, rank, np.iinfo(np.int64).max)
    # Of equals the lowest first limit and the highest second: what lies between is left to the strong guard.
    first, back = divmod(int(ranked[:, ::-1].argmin()), len(high))
    second = len(high) - 1 - back
    limits = Limits(safe_below=float(low[first]), unsafe_from=float(high[second]))
    return _Found(limits, int(asked[first, second]), int(lost[first, second]))


def _pairs(rows: Rows) -> tuple[Scores, Scores, Numbers, Numbers]:
    """First limits, shape ``(k,)``, second limits, ``(m,)``, and the rows asked and lost at each pair, ``(k, m)``."""
    score = rows.fast.score
    low, high = _cuts(score[rows.says_safe | rows.says_unsafe])
    loss = rows.strong.correct.astype(np.int64) - rows.fast.correct

    def below(cuts: Scores, mask: Bools, weights: Numbers) -> Numbers:
        """The sum of the weights of the rows whose score is below each cut; last that of all."""
        from_cut = np.searchsorted(cuts, score[mask], side="right")
        return np.bincount(from_cut, weights[mask], len(cuts) + 1).astype(np.int64).cumsum()

    sums = []
    for weights in (np.ones(len(rows), dtype=np.int64), loss):
        safe, unsafe = below(low, rows.says_safe, weights), below(high, rows.says_unsafe, weights)
        sums.append(safe[:-1, None] + (unsafe[-1] - unsafe[:-1]))
    return low, high, len(rows) - sums[0], sums[1]


def _cuts(scores: Scores) -> tuple[Scores, Scores]:
    """First and second limits: both in each gap between neighbouring scores, evenly spaced gaps where they are many."""
    ends = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    starts, gaps = ends[:-1], np.diff(ends)
    if len(gaps) > CUTS:
        kept = np.linspace(0, len(gaps) - 1, CUTS).round().astype(int)
        starts, gaps = starts[kept], gaps[kept]
    # Thirds, so that both limits may stand in one gap and the rounding of a score moves no row over them.
    return np.concatenate([[0.0], starts + gaps / 3]), np.concatenate([starts + gaps * 2 / 3, [1.0]])


def _most(rows: Rows, share: float) -> int:
    """So many rows are no more than a share of them all."""
    return floor(share * len(rows) + _TINY)


def _cross_validated(rows: Rows, goal: CascadeGoal) -> Bools:
    """Where the fast guard decides, by limits that were chosen on rows of other questions."""
    folds = np.unique(rows.fold)
    if len(folds) < 2:
        raise DataError("there are too few questions to choose limits by")
    stands = np.zeros(len(rows), dtype=bool)
    for fold in folds:
        held_out = rows.fold == fold
        # Where a part of the rows falls short of the goal, what comes nearest is chosen there.
        stands[held_out] = rows.where(held_out).stands(_nearest(rows.where(~held_out), goal).limits)
    return stands


def _rows(rows: list[Matched], partners: list[Matched]) -> Rows:
    fast, strong = decide(rows, Rules()), decide(partners, Rules())
    labels = [row.prediction.label for row in rows]
    scored = ~np.isnan(fast.score)
    return Rows(
        strong=strong,
        fast=fast,
        says_safe=np.array([label is Label.SAFE for label in labels], dtype=bool) & scored,
        says_unsafe=np.array([label is Label.UNSAFE for label in labels], dtype=bool) & scored,
        fold=np.array([question_bucket(row.truth.group, FOLDS) for row in rows], dtype=np.int64),
    )


def _figures(rows: Outcomes, calls: float) -> Figures:
    found = measure(rows)
    return Figures(
        accuracy=float(rows.correct.mean()),
        f1_unsafe=found.f1_unsafe,
        false_positive_rate=found.false_positive_rate,
        calls=calls,
    )
