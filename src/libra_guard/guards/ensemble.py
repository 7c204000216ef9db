"""Several guards at once: the mean of their scores, or their vote."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import fsum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from libra_guard.backends.base import Backend
from libra_guard.configuration import ConfigFile
from libra_guard.guards.band import Band
from libra_guard.guards.combined import CombinedGuard, Member, MemberSpec, does_not_judge, load_members, not_read
from libra_guard.records import Conversation, Label, Target, Verdict

_VOTES: dict[Label | None, float] = {Label.SAFE: 0.0, Label.CONTROVERSIAL: 0.5, Label.UNSAFE: 1.0}
_BAND = Band(0.0, 0.5, 1.0)
"""Each member's own threshold comes to lie in the middle."""


class Rule(StrEnum):
    """What an ensemble's score is."""

    MEAN = "mean"
    """Weighted mean of the members' scores, moved so that 0.5 is each member's own threshold; a verdict without a
    score counts as its vote."""
    VOTE = "vote"
    """Weighted share of the members that say unsafe; controversial is half a vote."""


class WeightedSpec(MemberSpec):
    """A member of an ensemble."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Beside the others'; only their ratios matter."""


class EnsembleFile(ConfigFile):
    """What ``ensemble:FILE`` names."""

    kind: ClassVar[str] = "ensemble file"

    members: list[WeightedSpec] = Field(min_length=2)
    rule: Rule = Rule.MEAN
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Of a mean, 0.5 is the members' own thresholds on average."""


class _Said(NamedTuple):
    """What one member said of one conversation."""

    member: Member
    weight: float
    verdict: Verdict
    score: float
    """Of a readable verdict, with the member's own threshold at 0.5; the vote where it gave none."""


class EnsembleGuard(CombinedGuard):
    """Asks all members, and joins what they say by the file's rule.

    A text is unsafe where the score reaches the threshold, so a tied vote is unsafe at 0.5. Members that do not judge
    the target are left out with a note. So are those whose answer cannot be read where the others say unsafe; where
    they do not, the verdict is unreadable, as of a text in windows. Scores of a mean should mean the same: give the
    members a calibration.

    ``categories`` holds the weighted mean over the members, a category that one does not name counting 0, where all
    members have the same system; else every member's own, as ``MEMBER: CATEGORY``. The analysis is that of the member
    that is surest of the same label, of those that give one.

    Args:
        backend: One that names an ``EnsembleFile`` as its ``model``.
        threshold: Unsafe from this score on; by default the file's.

    Raises:
        UsageError: The file cannot be read or is no such file, or a guard in it cannot be had.
        MissingExtraError: A guard in it needs a library that is not installed.
        BackendError: A model cannot be loaded.
    """

    name = "ensemble"

    def __init__(self, backend: Backend, *, threshold: float | None = None) -> None:
        path = Path(getattr(backend, "model", ""))
        file = EnsembleFile.read(path)
        members = load_members(path, {f"members.{i}": spec for i, spec in enumerate(file.members)})
        super().__init__(backend, members, threshold=file.threshold if threshold is None else threshold)
        self.rule = file.rule
        self.weights = tuple(spec.weight for spec in file.members)

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        return {**super().provenance(), "rule": self.rule.value, "weights": list(self.weights)}

    def _combine(self, conversations: Sequence[Conversation], *, explain: bool) -> list[Verdict]:
        told = [member.ask(conversations, range(len(conversations))) for member in self.members]
        asked = [*zip(self.members, self.weights, told, strict=True)]
        rows = [
            [_Said(m, w, t[i], _score(m, t[i], c.target)) for m, w, t in asked if i in t]
            for i, c in enumerate(conversations)
        ]
        verdicts = [self._joined(said, c) for said, c in zip(rows, conversations, strict=True)]
        return self._explained(conversations, rows, verdicts) if explain else verdicts

    def _joined(self, said: Sequence[_Said], conversation: Conversation) -> Verdict:
        read = [one for one in said if one.verdict.valid]
        asked = {one.member.name for one in said}
        silent = [does_not_judge(m.name, conversation.target) for m in self.members if m.name not in asked]
        unread = [not_read(one.member.name) for one in said if not one.verdict.valid]
        notes = (*_notes(said), *silent, *unread)
        # Rounded, so that a share of votes that is the threshold on paper reaches it.
        score = round(_mean(read, [self._value(one) for one in read]), 6) if read else 0.0
        label = self._label(score, conversation.target) if read else None
        if unread and label is not Label.UNSAFE:
            return Verdict(label=None, valid=False, windows=max(one.verdict.windows for one in said), notes=notes)
        methods = {one.verdict.method for one in read}
        return Verdict(
            label=label,
            unsafe_score=score,
            categories=self._categories(read),
            method=methods.pop() if len(methods) == 1 else None,
            windows=max(one.verdict.windows for one in read),
            notes=notes,
        )

    def _value(self, one: _Said) -> float:
        """What a readable verdict counts as."""
        return _VOTES[one.verdict.label] if self.rule is Rule.VOTE else one.score

    def _categories(self, read: Sequence[_Said]) -> dict[str, float]:
        if self.system is None:
            told = ((one.member.name, one.verdict.categories) for one in read)
            return {f"{member}: {name}": score for member, found in told for name, score in found.items()}
        names = dict.fromkeys(name for one in read for name in one.verdict.categories)
        return {name: round(_mean(read, [one.verdict.categories.get(name, 0.0) for one in read]), 6) for name in names}

    def _explained(
        self, conversations: Sequence[Conversation], rows: Sequence[Sequence[_Said]], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        """The verdicts with an analysis of the member that is surest of them, of those that give one.

        One that gives none for a text, as a classifier for safe ones, hands it to the next.
        """
        explained = list(verdicts)
        ranked = {i: _surest(said, verdict) for i, (said, verdict) in enumerate(zip(rows, verdicts, strict=True))}
        while ranked := {i: agreeing for i, agreeing in ranked.items() if agreeing}:
            surest = {i: agreeing.pop(0) for i, agreeing in ranked.items()}
            for member in self.members:
                mine = {i: one.verdict for i, one in surest.items() if one.member.name == member.name}
                for i, reasoned in member.explained(conversations, mine).items():
                    if reasoned.analysis is not None:
                        told = (*explained[i].notes, f"the analysis is that of {member.name}")
                        explained[i] = explained[i].model_copy(update={"analysis": reasoned.analysis, "notes": told})
                        del ranked[i]
        return explained


def _mean(said: Sequence[_Said], values: Sequence[float]) -> float:
    weights = [one.weight for one in said]
    return fsum(w * value for w, value in zip(weights, values, strict=True)) / fsum(weights)


def _score(member: Member, verdict: Verdict, target: Target) -> float:
    """The verdict's score where the member's own threshold is 0.5; its vote where it has none."""
    score = _BAND.score(verdict, member.guard.threshold_for(target))
    return _VOTES.get(verdict.label, 0.0) if score is None else score


def _surest(said: Sequence[_Said], verdict: Verdict) -> list[_Said]:
    """The members of the verdict's label, the surest first."""
    agreeing = (one for one in said if one.verdict.label and one.verdict.label is verdict.label)
    return sorted(agreeing, key=_certainty, reverse=True)


def _certainty(one: _Said) -> float:
    """How far a verdict's score lies on its label's side."""
    return one.score if one.verdict.label is Label.UNSAFE else 1 - one.score


def _notes(said: Sequence[_Said]) -> list[str]:
    """The members' notes, each once; with the members' names where not all of them say it."""
    found = dict.fromkeys(note for one in said for note in one.verdict.notes)
    lines = []
    for note in found:
        names = [one.member.name for one in said if note in one.verdict.notes]
        lines.append(note if len(names) == len(said) else f"{', '.join(names)}: {note}")
    return lines
