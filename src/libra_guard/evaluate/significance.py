"""Whether a figure, or a difference between two guards, could be chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from libra_guard.errors import UsageError
from libra_guard.evaluate.metrics import Outcomes

LEVEL = 0.95
RATES = ("accuracy", "f1_safe", "f1_unsafe")
"""The metrics that get an interval."""
LEAST = 100
"""Fewer bootstrap samples tell nothing of the ends of a distribution."""
_BATCH_CELLS = 4_000_000
Cells = NDArray[np.int8]
Interval = tuple[float, float]


class Comparison(BaseModel):
    """Two runs on the rows that both have. Differences are the first minus the second."""

    n: int
    """Rows compared."""
    only_first_right: int
    only_second_right: int
    accuracy: tuple[float, float]
    """Of the first and the second, over all rows compared."""
    p_accuracy: float
    """McNemar's exact test, two-sided: the chance of so uneven a split of the rows that one alone got right."""
    f1_unsafe: tuple[float | None, float | None]
    """Of the first and the second: unweighted mean over the sources, but those in which it is undefined."""
    f1_unsafe_over: tuple[int, int]
    """Sources that the mean is over, and how many there are. Left out is one where either run's F1 is undefined, in the
    rows themselves or in some resample: as where hardly a row is unsafe or flagged."""
    f1_unsafe_difference: float | None
    f1_unsafe_interval: Interval | None
    """95 % paired bootstrap interval of the difference; None where it is undefined or was not asked for, or where a
    source has one row alone."""
    p_f1_unsafe: float | None
    """Two-sided bootstrap p: twice the rarer sign's share of the resampled differences, at least 2 / (N + 1)."""


def intervals(groups: Sequence[Cells], *, resamples: int, seed: int) -> dict[str, Interval]:
    """95 % percentile bootstrap intervals (Efron 1979) of the unweighted mean over the groups.

    Each group is resampled on its own, so that its size is kept; one group alone gives its own intervals.

    Args:
        groups: Confusion cells of each group's rows (``Outcomes.cells``).
        resamples: Number of bootstrap samples; 0 gives no intervals.
        seed: Same seed, same intervals.

    Returns:
        Metric of ``RATES`` → lower and upper bound. A metric that is undefined in some resample has none; nor has
        anything where a group has fewer than two rows.
    """
    drawn = _resampled(groups, _mean_rates, resamples, seed)
    if drawn is None:
        return {}
    bounds = {name: _bounds(values) for name, values in zip(RATES, drawn, strict=True)}
    return {name: pair for name, pair in bounds.items() if pair is not None}


def check_resamples(option: str, resamples: int) -> None:
    """Sees to it that a bootstrap tells something, where one is asked for.

    Args:
        option: By which it was asked for.
        resamples: Number of its samples; 0 where none is.

    Raises:
        UsageError: They are fewer than ``LEAST``.
    """
    if resamples and resamples < LEAST:
        raise UsageError(f"{option} {resamples}: at least {LEAST} resamples make an interval; 0 for none")


def compare(first: Outcomes, second: Outcomes, *, resamples: int, seed: int) -> Comparison:
    """Tests the difference of two runs row by row.

    Accuracy by McNemar's exact test (McNemar 1947), F1 of 不安全 (mean over the sources in which it is defined) by a
    paired bootstrap, stratified by source.

    Args:
        first: Decisions on some rows.
        second: Decisions on the same rows, in the same order.
        resamples: Number of bootstrap samples; 0 leaves the bootstrap out.
        seed: Same seed, same numbers.
    """
    from scipy.stats import binomtest

    both = first.scored & second.scored
    first, second = first.where(both), second.where(both)
    only_first = int((first.correct & ~second.correct).sum())
    only_second = int((~first.correct & second.correct).sum())
    pairs = 4 * first.cells + second.cells
    groups = [pairs[first.source == name] for name in dict.fromkeys(first.source.tolist())]
    observed = _f1_of_pairs(*groups, axis=-1)
    # The same sources in both runs and in every resample, or the difference would be one of sources too.
    known = np.array(~np.isnan(observed).any(axis=0))
    drawn = _resampled([group for group, one in zip(groups, known, strict=True) if one], _f1_of_pairs, resamples, seed)
    spread = None
    if drawn is not None:
        steady = ~np.isnan(drawn).any(axis=(0, 2))
        known[known] = steady
        spread = np.subtract(*drawn[:, steady].mean(axis=1)) if steady.any() else None
    ours, theirs = observed[:, known].mean(axis=1).tolist() if known.any() else (None, None)
    return Comparison(
        n=len(first),
        only_first_right=only_first,
        only_second_right=only_second,
        accuracy=(float(first.correct.mean()), float(second.correct.mean())),
        p_accuracy=float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0,
        f1_unsafe=(ours, theirs),
        f1_unsafe_over=(int(known.sum()), len(groups)),
        f1_unsafe_difference=None if ours is None else ours - theirs,
        f1_unsafe_interval=None if spread is None else _bounds(spread),
        p_f1_unsafe=None if spread is None else _p_value(spread),
    )


def _resampled(groups: Sequence[NDArray[Any]], statistic: Any, resamples: int, seed: int) -> Any:
    """Bootstrap distribution of a statistic, the resamples along the last axis; None where it cannot be had."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    if not resamples or not groups or min(len(group) for group in groups) < 2:
        return None
    with warnings.catch_warnings():
        # Said of a statistic that is undefined in some resample; the caller sees to that.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        return bootstrap(
            groups,
            statistic,
            n_resamples=resamples,
            batch=max(1, _BATCH_CELLS // sum(len(group) for group in groups)),
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution


def _mean_rates(*groups: Cells, axis: int) -> NDArray[np.float64]:
    """Accuracy and both F1 (``RATES``), each the mean over the groups; shape ``(3, …)``, NaN where undefined."""
    mean: NDArray[np.float64] = np.mean([_rates(cells, axis) for cells in groups], axis=0)
    return mean


def _rates(cells: Cells, axis: int) -> NDArray[np.float64]:
    tn, fp, fn, tp = ((cells == cell).sum(axis=axis) for cell in range(4))
    with np.errstate(invalid="ignore"):
        f1_safe, f1_unsafe = 2 * tn / (2 * tn + fp + fn), 2 * tp / (2 * tp + fp + fn)
    return np.stack([(tn + tp) / cells.shape[axis], f1_safe, f1_unsafe])


def _f1_of_pairs(*groups: Cells, axis: int) -> NDArray[np.float64]:
    """F1 of 不安全 of both runs in each group; shape ``(2, groups, …)``, NaN where undefined."""
    return np.stack([[_rates(group // 4, axis)[2], _rates(group % 4, axis)[2]] for group in groups], axis=1)


def _bounds(values: NDArray[np.float64]) -> Interval | None:
    if np.isnan(values).any():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(differences: NDArray[np.float64]) -> float:
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * float(rarer + 1) / (len(differences) + 1))
