"""How far the judges of a run agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from libra_guard.configuration import Strict
from libra_guard.evaluate.agreement import fleiss_kappa
from libra_guard.records import Label, Vote


class Judgement(NamedTuple):
    """What was said of one row."""

    votes: Sequence[Vote]
    arbiter: Vote | None = None


class JudgeFigures(Strict):
    """One judge, or the arbiter."""

    votes: int
    unreadable: int
    labels: dict[str, int]


class PairFigures(Strict):
    """Two judges, over the rows that both could be read on."""

    first: str
    second: str
    rows: int
    observed: float | None
    """Share of the rows on which they gave one label."""
    kappa: float | None
    """Cohen's; None where each of them gave one label throughout."""


class Agreement(Strict):
    """The votes of a run. An arbiter is asked only where the others differ, so his pairs are about the hard rows."""

    rows: int
    agreed: int
    """Rows with one label from all judges."""
    unreadable: int
    """Rows on which at least one judge could not be read."""
    judges: dict[str, JudgeFigures]
    arbiter: dict[str, JudgeFigures]
    pairs: list[PairFigures]
    fleiss: float | None
    """Over the rows on which all judges could be read; None with less than three judges."""

    @property
    def differ(self) -> int:
        """Rows on which all could be read, and differ."""
        return self.rows - self.agreed - self.unreadable


def agreement(rows: Sequence[Judgement]) -> Agreement:
    """Counts the votes; rows without votes do not count."""
    rows = [row for row in rows if row.votes]
    whole = [row for row in rows if all(vote.label for vote in row.votes)]
    judges = sorted({vote.judge for row in rows for vote in row.votes})
    arbiters = sorted({row.arbiter.judge for row in rows if row.arbiter})
    said = [_said(row.votes) for row in rows]
    last = [_said([row.arbiter] if row.arbiter else []) for row in rows]
    pairs = [_pair(one, other, said, said) for one, other in combinations(judges, 2)]
    pairs += [_pair(one, other, said, last) for one in judges for other in arbiters]
    return Agreement(
        rows=len(rows),
        agreed=sum(len({vote.label for vote in row.votes}) == 1 for row in whole),
        unreadable=len(rows) - len(whole),
        judges={name: _judge(name, said) for name in judges},
        arbiter={name: _judge(name, last) for name in arbiters},
        pairs=pairs,
        fleiss=_fleiss(whole, len(judges)),
    )


_Said = dict[str, Label | None]


def _said(votes: Iterable[Vote]) -> _Said:
    return {vote.judge: vote.label for vote in votes}


def _judge(name: str, said: Sequence[_Said]) -> JudgeFigures:
    labels = [one[name] for one in said if name in one]
    counts = Counter(label.value for label in labels if label)
    return JudgeFigures(votes=len(labels), unreadable=labels.count(None), labels=dict(sorted(counts.items())))


def _pair(first: str, second: str, ours: Sequence[_Said], theirs: Sequence[_Said]) -> PairFigures:
    both = [(a, b) for a, b in ((x.get(first), y.get(second)) for x, y in zip(ours, theirs, strict=True)) if a and b]
    observed = round(sum(a is b for a, b in both) / len(both), 4) if both else None
    return PairFigures(first=first, second=second, rows=len(both), observed=observed, kappa=_cohen(both))


def _cohen(pairs: Sequence[tuple[Label, Label]]) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    first, second = ([pair[i].value for pair in pairs] for i in (0, 1))
    # One label throughout leaves nothing to tell from chance.
    return round(float(cohen_kappa_score(first, second)), 4) if len({*first, *second}) > 1 else None


def _fleiss(rows: Sequence[Judgement], judges: int) -> float | None:
    counts = [Counter(vote.label for vote in row.votes) for row in rows if len(row.votes) == judges]
    if judges < 3 or not counts:
        return None
    kappa = float(fleiss_kappa(np.array([[count[label] for label in Label] for count in counts])))
    return None if math.isnan(kappa) else round(kappa, 4)
