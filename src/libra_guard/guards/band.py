"""Scores of one guard on another scale, so that they rank beside those of a second guard."""

from __future__ import annotations

from math import nextafter
from typing import NamedTuple

from libra_guard.records import Label, Verdict


class Band(NamedTuple):
    """Part of [0, 1] that a guard's scores are moved into."""

    low: float
    """What a score of 0 becomes."""
    middle: float
    """What the guard's own threshold becomes; more than ``low``."""
    high: float
    """What a score of 1 becomes."""

    def score(self, verdict: Verdict, threshold: float) -> float | None:
        """The verdict's score moved, piecewise linearly, so that order is kept below the threshold and above it.

        Args:
            verdict: Of the guard.
            threshold: From which the guard says unsafe.

        Returns:
            At least ``middle`` where the verdict is unsafe, less where it is safe, whatever a float rounds to; None
            where it has no score.
        """
        score = verdict.unsafe_score
        if score is None:
            return None
        if score < threshold:
            moved = self.low + (self.middle - self.low) * score / threshold
        else:
            above = (score - threshold) / (1 - threshold) if threshold < 1 else 1.0
            moved = self.middle + (self.high - self.middle) * above
        if verdict.label is Label.SAFE:
            return min(moved, nextafter(self.middle, self.low))
        return max(moved, self.middle) if verdict.label is Label.UNSAFE else moved
