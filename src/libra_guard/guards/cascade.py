"""A fast guard decides the clear cases, a strong one the rest (Viola and Jones, CVPR 2001)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from libra_guard.backends.base import Backend
from libra_guard.configuration import ConfigFile, Strict
from libra_guard.errors import UsageError
from libra_guard.guards.band import Band
from libra_guard.guards.calibration import check_fitted_on
from libra_guard.guards.combined import CombinedGuard, MemberSpec, does_not_judge, load_members, not_read
from libra_guard.records import Conversation, Label, Target, Verdict


class Limits(Strict):
    """Scores of the fast guard between which the strong one is asked."""

    safe_below: float = Field(ge=0, lt=1)
    """A safe verdict with a score below this stands."""
    unsafe_from: float = Field(gt=0, le=1)
    """An unsafe verdict with a score of at least this stands."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.safe_below < self.unsafe_from:
            raise ValueError("safe_below must be less than unsafe_from")
        return self

    @property
    def band(self) -> Band:
        """Where the strong guard's scores are moved to; its threshold to the middle."""
        return Band(self.safe_below, (self.safe_below + self.unsafe_from) / 2, self.unsafe_from)


class FittedOn(Strict):
    """Provenance of both guards, as they were when the limits were fitted; of what is not told nothing is checked."""

    fast: dict[str, Any] = Field(default_factory=dict)
    strong: dict[str, Any] = Field(default_factory=dict)

    def check(self, fast: Mapping[str, Any], strong: Mapping[str, Any]) -> None:
        """Sees to it that the limits are on the scale of these guards.

        Args:
            fast: The fast guard's provenance.
            strong: The strong one's.

        Raises:
            UsageError: They were fitted on another guard, model, prompt or calibration; the message says what differs.
        """
        for name, told, guard in (("fast", self.fast, fast), ("strong", self.strong, strong)):
            try:
                _check_scale(told, guard)
            except UsageError as error:
                raise UsageError(f"{name}: the limits were {error}") from None


class CascadeFile(ConfigFile, Limits):
    """What ``cascade:FILE`` names."""

    kind: ClassVar[str] = "cascade file"

    fast: MemberSpec
    strong: MemberSpec
    prompt: Limits | None = None
    """Where a question is judged by itself; by default those of the answers."""
    fitted_on: FittedOn | None = None
    """The guards that the limits hold for."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """How the limits were come by; nothing is read from it."""


class CascadeGuard(CombinedGuard):
    """Asks the strong guard only where the fast one is not sure.

    The fast guard's verdict stands where it is safe with a score below ``safe_below``, or unsafe with one of at least
    ``unsafe_from``. All else goes to the strong guard: scores between, controversial or unreadable answers, verdicts
    without a score. Where the strong guard's answer cannot be read, neither can the cascade's. What only one of the two
    judges is decided by that one.

    The label, categories, reasons and the model's own text are those of the guard that decided; a note names it. A
    score of the strong guard is moved between the limits, its threshold to their middle, so that all scores together
    rank, and those of at least ``threshold_for`` are the unsafe ones; the note has its own score and threshold.

    Args:
        backend: One that names a ``CascadeFile`` as its ``model``.

    Raises:
        UsageError: The file cannot be read or is no such file, a guard in it cannot be had, or the limits were fitted
            on other guards.
        MissingExtraError: A guard in it needs a library that is not installed.
        BackendError: A model cannot be loaded.
    """

    name = "cascade"

    def __init__(self, backend: Backend) -> None:
        path = Path(getattr(backend, "model", ""))
        self.file = CascadeFile.read(path)
        self.fast, self.strong = load_members(path, {"fast": self.file.fast, "strong": self.file.strong})
        super().__init__(backend, (self.fast, self.strong), threshold=self.file.band.middle)
        if self.file.fitted_on is not None:
            try:
                self.file.fitted_on.check(*(member.guard.provenance() for member in self.members))
            except UsageError as error:
                advice = "fit them again with 'libra cascade', or take 'fitted_on' out of the file"
                raise UsageError(f"{path}: {error}: {advice}") from None

    def threshold_for(self, target: Target) -> float:
        """See ``Guard.threshold_for``."""
        judges = [member.guard for member in self.members if target in member.guard.targets]
        return self._limits(target).band.middle if len(judges) > 1 else judges[0].threshold_for(target)

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        both = sorted(self.fast.guard.targets & self.strong.guard.targets)
        limits = {t.value: [self._limits(t).safe_below, self._limits(t).unsafe_from] for t in both}
        return {**super().provenance(), "limits": limits}

    def _combine(self, conversations: Sequence[Conversation], *, explain: bool) -> list[Verdict]:
        first = self.fast.ask(conversations, range(len(conversations)))
        clear = {i: v for i, v in first.items() if self._stands(v, conversations[i].target)}
        rest = [i for i in range(len(conversations)) if i not in clear]
        second = self.strong.ask(conversations, rest, explain=explain)
        if explain:
            clear = self.fast.explained(conversations, clear)
        return [
            self._by_fast(clear[i], c.target) if i in clear else self._by_strong(second[i], first.get(i), c.target)
            for i, c in enumerate(conversations)
        ]

    def _limits(self, target: Target) -> Limits:
        return self.file.prompt if target is Target.PROMPT and self.file.prompt else self.file

    def _stands(self, verdict: Verdict, target: Target) -> bool:
        """Whether the fast guard's verdict is the cascade's."""
        if target not in self.strong.guard.targets:
            return True
        score, limits = verdict.unsafe_score, self._limits(target)
        if score is None:
            return False
        if verdict.label is Label.SAFE:
            return score < limits.safe_below
        return verdict.label is Label.UNSAFE and score >= limits.unsafe_from

    def _by_fast(self, verdict: Verdict, target: Target) -> Verdict:
        alone = target not in self.strong.guard.targets
        why = [does_not_judge(self.strong.name, target)] if alone else []
        return _decided(verdict, self.fast.name, *why)

    def _by_strong(self, verdict: Verdict, doubtful: Verdict | None, target: Target) -> Verdict:
        fast = self.fast.name
        if doubtful is None:
            return _decided(verdict, self.strong.name, does_not_judge(fast, target))
        why = []
        if not doubtful.valid:
            why = [not_read(fast)]
        elif doubtful.unsafe_score is None:
            why = [f"{fast} gave no score"]
        own, threshold = verdict.unsafe_score, self.strong.guard.threshold_for(target)
        moved = self._limits(target).band.score(verdict, threshold)
        told = "" if own is None else f" ({own:.3f} of its own {threshold:.3f})"
        return _decided(verdict.model_copy(update={"unsafe_score": moved}), self.strong.name, *why, scored=told)


def _check_scale(told: Mapping[str, Any], guard: Mapping[str, Any]) -> None:
    """Sees to it that a guard's scores are those that were told of, by the rules of a calibration and by its own."""
    if not told:
        return
    check_fitted_on(told, guard)
    old, new = ((one.get("calibration") or {}).get("sha256") for one in (told, guard))
    if old != new:
        raise UsageError(f"fitted on another calibration: {old}, and this guard has {new}")
    # Those of a guard that is made of others, in the order of its file.
    inner = ((one.get("members") or {}).values() for one in (told, guard))
    for first, second in zip(*inner, strict=False):
        _check_scale(first, second)


def _decided(verdict: Verdict, name: str, *why: str, scored: str = "") -> Verdict:
    """The verdict with a note of who gave it, and what the score was where it was moved."""
    who = f"decided by {name}{scored}" if verdict.valid else not_read(name)
    return verdict.model_copy(update={"notes": (*verdict.notes, *why, who)})
