"""Joining the deep and the wide part, and choosing the threshold, on questions that neither was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from libra_guard.train.mixture import Example, target_array

_FEWEST = 10
_THRESHOLDS = np.linspace(0.05, 0.95, 181).round(3)


@dataclass(frozen=True)
class Joint:
    """``logit = deep_scale * deep + wide_scale * wide + bias``, for each output; all of shape ``(outputs,)``.

    Stacked generalisation (Wolpert, 1992) with logistic regression, which calibrates the result at once (Platt, 1999).
    """

    deep_scale: NDArray[np.float64]
    wide_scale: NDArray[np.float64]
    bias: NDArray[np.float64]

    def apply(self, deep: NDArray[np.float64], wide: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joined logits, shape ``(n, outputs)``."""
        return deep * self.deep_scale + wide * self.wide_scale + self.bias


def fit_joint(
    deep: NDArray[np.float64] | None, wide: NDArray[np.float64] | None, examples: Sequence[Example], *, seed: int
) -> Joint:
    """Fits the join on calibration examples, each source weighing the same.

    Args:
        deep: Logits of the deep part, shape ``(n, outputs)``; None where there is none.
        wide: Likewise of the wide part.
        examples: What they were computed on.
        seed: For the solver.
    """
    parts = [p for p in (deep, wide) if p is not None]
    weights = _equal_sources(examples)
    targets = target_array(examples)
    outputs = targets.shape[1]
    scales = np.zeros((2, outputs))
    bias = np.zeros(outputs)
    for column in range(outputs):
        known = ~np.isnan(targets[:, column])
        wanted = targets[known, column] == 1
        if min(wanted.sum(), (~wanted).sum()) < _FEWEST:
            # Too few to fit: the parts' own mean stands.
            scales[:, column] = [p is not None for p in (deep, wide)]
            scales[:, column] /= len(parts)
            continue
        stacked = np.stack([p[known, column] for p in parts], axis=1)
        model = LogisticRegression(C=1.0, random_state=seed).fit(stacked, wanted, sample_weight=weights[known])
        fitted = iter(model.coef_[0])
        scales[:, column] = [next(fitted) if p is not None else 0.0 for p in (deep, wide)]
        bias[column] = model.intercept_[0]
    return Joint(scales[0], scales[1], bias)


def choose_threshold(
    scores: NDArray[np.float64],
    examples: Sequence[Example],
    benign: NDArray[np.float64],
    *,
    false_positives: float,
    report: Callable[[str], None],
) -> float:
    """The threshold with the best mean F1-unsafe over the sources, among those that keep benign texts unflagged.

    Where neighbouring thresholds do equally well, it is the middle one: scores of other texts lie on either side.

    Args:
        scores: Unsafe probabilities of the calibration examples, shape ``(n,)``.
        examples: The calibration examples.
        benign: Unsafe probabilities of benign texts; may be empty.
        false_positives: Largest share of them that may be flagged.
        report: Told where none of the thresholds keeps enough of them unflagged.

    Returns:
        A threshold in [0.05, 0.95], to three decimals; 0.95 where none of them keeps enough benign texts unflagged.
    """
    unsafe = np.array([e.unsafe for e in examples])
    sources = np.array([e.source for e in examples])
    groups = [sources == s for s in sorted(set(sources)) if unsafe[sources == s].any()]
    # A higher threshold flags no more, so those that keep the budget are the upper ones.
    kept = [t for t in _THRESHOLDS if not len(benign) or np.mean(benign >= t) <= false_positives]
    if not kept:
        highest = float(_THRESHOLDS[-1])
        report(
            f"the highest threshold, {highest}, flags {np.mean(benign >= highest):.1%} of {len(benign)} benign texts, "
            f"which is more than false_positives: {false_positives} allows"
        )
        return highest
    found = [float(np.mean([_f1(unsafe[g], scores[g] >= t) for g in groups])) if groups else 0.0 for t in kept]
    best = first = found.index(max(found))
    while best + 1 < len(found) and found[best + 1] == found[first]:
        best += 1
    return float(kept[(first + best) // 2])


def _f1(wanted: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> float:
    hits = float((wanted & flagged).sum())
    return 2 * hits / max(1.0, float(wanted.sum() + flagged.sum()))


def _equal_sources(examples: Sequence[Example]) -> NDArray[np.float64]:
    names = [e.source for e in examples]
    counts = {name: names.count(name) for name in set(names)}
    return np.array([len(examples) / len(counts) / counts[name] for name in names])
