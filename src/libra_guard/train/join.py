"""Joining the deep and the wide part, and choosing the threshold, on questions that neither was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression

from libra_guard.train.mixture import Example, target_array

FEWEST = 10
"""Calibration examples of either kind below which an output is not fitted, and a threshold stands on too little."""
_CHANCE = 0.05
"""Scores that rank as well as this often by chance alone do not rank."""
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

    Returns:
        The join. An output that is not ``enough_to_fit`` is the mean of the parts, and calibrated on nothing.
    """
    parts = [p for p in (deep, wide) if p is not None]
    weights = _equal_sources(examples)
    targets = target_array(examples)
    outputs = targets.shape[1]
    enough = enough_to_fit(examples)
    scales = np.zeros((2, outputs))
    bias = np.zeros(outputs)
    for column in range(outputs):
        if not enough[column]:
            scales[:, column] = [p is not None for p in (deep, wide)]
            scales[:, column] /= len(parts)
            continue
        known = ~np.isnan(targets[:, column])
        wanted = targets[known, column] == 1
        stacked = np.stack([p[known, column] for p in parts], axis=1)
        model = LogisticRegression(C=1.0, random_state=seed).fit(stacked, wanted, sample_weight=weights[known])
        fitted = iter(model.coef_[0])
        scales[:, column] = [next(fitted) if p is not None else 0.0 for p in (deep, wide)]
        bias[column] = model.intercept_[0]
    return Joint(scales[0], scales[1], bias)


def enough_to_fit(examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Of which outputs there are ``FEWEST`` examples with it, and as many without; shape ``(outputs,)``."""
    targets = target_array(examples)
    return np.asarray(np.minimum((targets == 1).sum(axis=0), (targets == 0).sum(axis=0)) >= FEWEST)


def choose_threshold(
    scores: NDArray[np.float64],
    examples: Sequence[Example],
    benign: NDArray[np.float64],
    *,
    false_positives: float,
    report: Callable[[str], None],
    judged: Literal["pairs", "questions"] = "pairs",
) -> float:
    """The threshold with the best mean F1-unsafe over the sources, among those that keep benign texts unflagged.

    Where neighbouring thresholds do equally well, it is the middle one: scores of other texts lie on either side. One
    that flags all texts is taken only where no other finds an unsafe one.

    Args:
        scores: Unsafe probabilities of the calibration examples, shape ``(n,)``.
        examples: The calibration examples.
        benign: Unsafe probabilities of benign pairs; may be empty. Of questions, those of the safe examples.
        false_positives: Largest share of them that may be flagged.
        report: Told where none of the thresholds keeps enough of them unflagged, where the examples are too few or too
            badly ranked to choose a threshold on, and what it flags where there are no benign pairs.
        judged: What the threshold is for.

    Returns:
        A threshold in [0.05, 0.95], to three decimals; 0.95 where none of them keeps enough benign texts unflagged.
    """
    setting = {"pairs": "false_positives", "questions": "question_false_positives"}[judged]
    unsafe = np.array([e.unsafe for e in examples])
    sources = np.array([e.source for e in examples])
    groups = [sources == s for s in sorted(set(sources)) if unsafe[sources == s].any()]
    # A higher threshold flags no more, so those that keep the budget are the upper ones.
    kept = [t for t in _THRESHOLDS if not len(benign) or np.mean(benign >= t) <= false_positives]
    if not kept:
        highest = float(_THRESHOLDS[-1])
        report(
            f"the highest threshold, {highest}, flags {np.mean(benign >= highest):.1%} of {len(benign)} benign texts, "
            f"which is more than {setting}: {false_positives} allows"
        )
        return highest
    found = [float(np.mean([_f1(unsafe[g], scores[g] >= t) for g in groups])) if groups else 0.0 for t in kept]
    lowest = min([*scores, *benign])
    both = unsafe.any() and (len(benign) > 0 or not unsafe.all())
    telling = [n for n, t in enumerate(kept) if found[n] > 0 and t > lowest] if both else []
    best = first = max(telling or range(len(kept)), key=found.__getitem__)
    while best + 1 < len(found) and found[best + 1] == found[first]:
        best += 1
    threshold = float(kept[(first + best) // 2])
    for line in _remarks(threshold, scores, unsafe, benign, judged):
        report(line)
    return threshold


def choose_category_threshold(probabilities: NDArray[np.float64], examples: Sequence[Example]) -> float:
    """The threshold from which categories are named: the best F1 over all categories of the unsafe examples.

    A category's score is the probability that the text is unsafe and belongs there. Several share a text's, so at a
    half most texts would have none.

    Args:
        probabilities: Of each category, shape ``(n, categories)``.
        examples: The calibration examples; categories that are not known of one are left out.

    Returns:
        A threshold in [0.05, 0.95], to three decimals, the middle one of those that do equally well; 0.5 where fewer
        than ``FEWEST`` categories of examples are known.
    """
    rows = np.array([e.unsafe for e in examples], dtype=bool)
    wanted = target_array(examples)[rows, 1:] if rows.any() else np.zeros((0, probabilities.shape[1]))
    known = ~np.isnan(wanted)
    there, scores = wanted[known] == 1, probabilities[rows][known]
    if there.sum() < FEWEST:
        return 0.5
    found = [_f1(there, scores >= t) for t in _THRESHOLDS]
    best = [t for t, f1 in zip(_THRESHOLDS, found, strict=True) if f1 == max(found)]
    return float(best[(len(best) - 1) // 2])


def _remarks(
    threshold: float,
    scores: NDArray[np.float64],
    unsafe: NDArray[np.bool_],
    benign: NDArray[np.float64],
    judged: Literal["pairs", "questions"],
) -> Iterator[str]:
    """Why a threshold is worth little, if it is, and what it flags where nothing limits it."""
    # The benign questions are among the examples.
    further = benign if judged == "pairs" else benign[:0]
    n_unsafe, n_safe = int(unsafe.sum()), int((~unsafe).sum()) + len(further)
    flagged = scores >= threshold
    if not n_unsafe or not n_safe:
        label = "unsafe" if n_unsafe else "safe"
        yield f"all {len(scores) + len(further)} calibration {judged} are {label}: they tell no threshold"
    else:
        if min(n_unsafe, n_safe) < FEWEST:
            yield (
                f"{n_unsafe} unsafe and {n_safe} safe calibration {judged} tell little of a threshold; at least "
                f"{FEWEST} of each are wanted"
            )
        else:
            safe = scores[~unsafe] if not unsafe.all() else further
            ranks = mannwhitneyu(scores[unsafe], safe, alternative="greater")
            if ranks.pvalue >= _CHANCE:
                yield (
                    f"chance alone could rank the calibration {judged} as well as the guard does (AUC "
                    f"{ranks.statistic / (n_unsafe * len(safe)):.2f}): they tell little of a threshold"
                )
        everything = flagged.all() and (further >= threshold).all()
        if everything or not flagged[unsafe].any():
            yield (
                f"no threshold that may be taken tells the calibration {judged} apart: {threshold} flags "
                f"{'all of them' if everything else 'no unsafe one'}"
            )
    if judged == "pairs" and not len(benign):
        shares = [
            f"{flagged[rows].mean():.1%} of {rows.sum()} {label}"
            for label, rows in (("safe", ~unsafe), ("unsafe", unsafe))
            if rows.any()
        ]
        yield (
            f"calibration has no benign pairs, so false_positives limits nothing: the threshold {threshold} flags "
            f"{' and '.join(shares)} calibration pairs"
        )


def _f1(wanted: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> float:
    hits = float((wanted & flagged).sum())
    return 2 * hits / max(1.0, float(wanted.sum() + flagged.sum()))


def _equal_sources(examples: Sequence[Example]) -> NDArray[np.float64]:
    names = [e.source for e in examples]
    counts = {name: names.count(name) for name in set(names)}
    return np.array([len(examples) / len(counts) / counts[name] for name in names])
