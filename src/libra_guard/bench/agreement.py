"""How far people agree: Fleiss' kappa and Krippendorff's alpha, with bootstrap intervals.

Both are computed from how many people gave each row each label, so a row is one line of a table of counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from libra_guard.bench.collect import Annotation
from libra_guard.bench.rows import BenchRow
from libra_guard.evaluate.agreement import Counts, fleiss_kappa, krippendorff_alpha
from libra_guard.evaluate.significance import LEVEL, Interval
from libra_guard.records import Label

LABELS = (Label.SAFE.value, Label.UNSAFE.value)
ALL = "all"
ALPHA_LEAST = 0.667
"""The lowest alpha from which Krippendorff (2004, ch. 11) lets tentative conclusions be drawn."""


class Agreement(BaseModel):
    """How far people agree on some rows. 不确定 and what is missing are no labels here."""

    rows: int
    labels: int
    """安全 and 不安全 that were given."""
    unsure: int
    """不确定 that were given."""
    missing: int
    """Answers that nobody gave."""
    labelled_rows: int
    """Rows with one label or more."""
    unanimous: float | None
    """Share, of the rows with two labels or more, of those on which all labels are the same."""
    fleiss_kappa: float | None
    """Over the rows that every annotator labelled; None where it is undefined: no such row, or one label alone."""
    fleiss_kappa_interval: Interval | None
    fleiss_rows: int
    """So many rows did every annotator label."""
    krippendorff_alpha: float | None
    """Nominal, over the rows with two labels or more; None where it is undefined."""
    krippendorff_alpha_interval: Interval | None
    krippendorff_rows: int
    """So many rows have two labels or more."""


class Annotator(BaseModel):
    """One person against the others."""

    labelled: int
    unsure: int
    missing: int
    compared: int
    """Labels on rows to which more than half of the others gave one label, whatever share a label needs to stand."""
    with_others: float | None
    """Share of these that are that label; the person's own vote makes no majority. None where there are none."""


def count_labels(rows: Sequence[BenchRow], annotations: Sequence[Annotation]) -> Counts:
    """The table of counts; its columns are ``LABELS``."""
    place = {row.id: number for number, row in enumerate(rows)}
    counts = np.zeros((len(rows), len(LABELS)), np.int64)
    for one in annotations:
        if one.label in LABELS:
            counts[place[one.row], LABELS.index(one.label)] += 1
    return counts


def agreement(counts: Counts, people: int, *, unsure: int = 0, resamples: int, seed: int) -> Agreement:
    """How far people agree on the rows.

    The intervals are 95 % percentile bootstrap intervals (Efron 1979): rows are drawn, with all their labels.

    Args:
        counts: Shape (rows, labels).
        people: Number of annotators.
        unsure: Answers that are no labels.
        resamples: Number of bootstrap samples; 0 gives no intervals.
        seed: Same seed, same intervals.
    """
    in_row = counts.sum(axis=1)
    several, whole = counts[in_row > 1], counts[in_row == people]
    return Agreement(
        rows=len(counts),
        labels=int(counts.sum()),
        unsure=unsure,
        missing=len(counts) * people - int(counts.sum()) - unsure,
        labelled_rows=int((in_row > 0).sum()),
        unanimous=float((several.max(axis=1) == several.sum(axis=1)).mean()) if len(several) else None,
        fleiss_kappa=_number(fleiss_kappa(whole)),
        fleiss_kappa_interval=_interval(fleiss_kappa, whole, resamples, seed),
        fleiss_rows=len(whole),
        krippendorff_alpha=_number(krippendorff_alpha(counts)),
        krippendorff_alpha_interval=_interval(krippendorff_alpha, several, resamples, seed),
        krippendorff_rows=len(several),
    )


def by_scenario(
    rows: Sequence[BenchRow], annotations: Sequence[Annotation], people: int, *, resamples: int, seed: int
) -> dict[str, Agreement]:
    """``agreement`` on all rows (under ``ALL``) and on those of each scenario, by its English name."""
    counts = count_labels(rows, annotations)
    names = np.array([row.category_name for row in rows])
    parts = {ALL: np.ones(len(rows), bool)} | {name: names == name for name in sorted(set(names.tolist()))}
    doubts = Counter(one.row for one in annotations if one.label not in LABELS)
    unsure = np.array([doubts[row.id] for row in rows])
    return {
        name: agreement(counts[part], people, unsure=int(unsure[part].sum()), resamples=resamples, seed=seed)
        for name, part in parts.items()
    }


def by_annotator(
    rows: Sequence[BenchRow], annotations: Sequence[Annotation], annotators: Sequence[str]
) -> dict[str, Annotator]:
    """Each person against the majority of the others."""
    said = {name: {one.row: one.label for one in annotations if one.annotator == name} for name in annotators}
    found: dict[str, Annotator] = {}
    for name in annotators:
        others = [said[other] for other in annotators if other != name]
        labels = {row: label for row, label in said[name].items() if label in LABELS}
        majority = {row: _most([other.get(row, "") for other in others]) for row in labels}
        same = [majority[row] == label for row, label in labels.items() if majority[row]]
        found[name] = Annotator(
            labelled=len(labels),
            unsure=len(said[name]) - len(labels),
            missing=len(rows) - len(said[name]),
            compared=len(same),
            with_others=sum(same) / len(same) if same else None,
        )
    return found


def figure(value: float | None) -> str:
    """A figure for people, three decimals; never a zero below zero."""
    return "–" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _most(said: Sequence[str]) -> str:
    """The label that more than half gave; empty where none is."""
    return next((label for label in LABELS if 2 * said.count(label) > len(said)), "")


def _interval(statistic: Any, counts: Counts, resamples: int, seed: int) -> Interval | None:
    """None where the statistic is undefined in some resample, as in ``evaluate/significance.py``."""
    if not resamples or len(counts) < 2:
        return None
    # To draw rows is to draw how often each kind of row occurs; there are few kinds.
    kinds, occur = np.unique(counts, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(counts), occur / len(counts), size=resamples)
    values = statistic(kinds, drawn.astype(np.float64))
    if np.isnan(values).any():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _number(value: NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)
