"""From a model's number to a label: the calibration of the score, and the threshold."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from libra_guard.errors import UsageError
from libra_guard.guards.calibration import Calibration
from libra_guard.records import Label, Target


class Calibratable(ABC):
    """What decides, and can be calibrated. ``Guard`` builds on it; scores and thresholds are in [0, 1]."""

    name: ClassVar[str]
    gives_scores: bool = False
    """Whether every score goes through ``_score``, and decides the label; only then a calibration is of use."""
    calibration: Calibration | None = None

    def __init__(self, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"the threshold is {threshold}; it must lie in [0, 1]")
        self.threshold = threshold
        self.question_threshold: float | None = None
        """For questions that are judged by themselves; None: as ``threshold``."""

    def threshold_for(self, target: Target) -> float:
        """The score from which a target is unsafe: the calibrated one where there is a calibration."""
        own = self.question_threshold if target is Target.PROMPT else None
        return self.threshold if own is None else own

    def calibrated(self, calibration: Calibration, *, keep_thresholds: bool = False) -> Self:
        """The same guard with the scores and thresholds of a calibration.

        A target that the calibration has no map for keeps its scores and its threshold.

        Args:
            calibration: Fitted on this guard.
            keep_thresholds: Keep the guard's thresholds; they hold for the calibrated scores then.

        Raises:
            UsageError: The guard gives no scores, or the calibration was fitted on another guard or model.
        """
        if not self.gives_scores:
            raise UsageError(f"the guard '{self.name}' gives no scores here that could be calibrated")
        calibration.check(self.provenance())
        guard = copy.copy(self)
        guard.calibration = calibration
        if not keep_thresholds:
            maps = {target: calibration.of(target) for target in Target}
            chosen = {t: self.threshold_for(t) if m is None else m.threshold for t, m in maps.items()}
            guard.threshold, guard.question_threshold = chosen[Target.RESPONSE], chosen[Target.PROMPT]
        return guard

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What the scores depend on."""

    def _score(self, raw: float, target: Target) -> float:
        """The verdict's score: the model's own number, calibrated where there is a map for the target."""
        found = self.calibration and self.calibration.of(target)
        return float(found.apply(raw)) if found else raw

    def _label(self, score: float, target: Target = Target.RESPONSE) -> Label:
        return Label.UNSAFE if score >= self.threshold_for(target) else Label.SAFE

    def _decides(self) -> dict[str, Any]:
        """For the provenance: the threshold and, where there is one, the calibration."""
        if self.calibration is None:
            return {"threshold": self.threshold}
        thresholds = {target.value: self.threshold_for(target) for target in Target}
        return {
            "threshold": self.threshold,
            "calibration": {"sha256": self.calibration.sha256, "thresholds": thresholds},
        }
