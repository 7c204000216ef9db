"""From annotations to labels: the majority, the queue for an adjudicator, and the adjudicator's answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from libra_guard.bench import page
from libra_guard.bench.agreement import LABELS
from libra_guard.bench.collect import Annotation
from libra_guard.bench.rows import BenchRow
from libra_guard.taxonomy import sub_category

ADJUDICATOR = "adjudicator"
"""The name under which an adjudicator's answers stand."""
MIN_SHARE = 2 / 3
"""Share of a round's annotators that have to give a label for it to stand."""


class Labelled(NamedTuple):
    """A row with its label."""

    row: str
    label: str
    by: str
    """``majority`` or ``adjudicator``."""
    votes: dict[str, str]
    """Annotator → answer."""
    sub_category: str
    """English name of the sub-category that most annotators, or the adjudicator, moved the row to; else empty."""
    reasons: tuple[str, ...]
    """Of those who gave the label, in the order of the annotators."""


class Open(NamedTuple):
    """A row that the annotators did not settle."""

    row: BenchRow
    why: str
    said: tuple[Annotation, ...]

    def as_dict(self) -> dict[str, str]:
        """A line of the queue: what an adjudicator has to see, and three fields to fill in."""
        answers = "\n".join(f"{one.annotator}：{one.label}　{one.reason}".rstrip() for one in self.said)
        return self.row.shown() | {"why": self.why, "answers": answers} | dict.fromkeys(page.FILLED, "")


def settle(
    rows: Sequence[BenchRow],
    annotations: Iterable[Annotation],
    annotators: Sequence[str],
    adjudicated: Mapping[str, Annotation],
    min_share: float = MIN_SHARE,
) -> tuple[list[Labelled], list[Open]]:
    """Gives each row its label, or puts it into the queue.

    A label stands where more than half of the round's annotators gave it, and at least ``min_share`` of them: who gave
    none, or was not sure, counts against it. An adjudicator's answer is taken for rows of the queue only.

    Args:
        rows: Of the round.
        annotations: Of all annotators.
        annotators: Their names.
        adjudicated: Row → answer.
        min_share: Of the annotators, in [0, 1].

    Returns:
        The labelled rows and the open ones, each in the order of the rows.
    """
    said: defaultdict[str, list[Annotation]] = defaultdict(list)
    for one in sorted(annotations, key=lambda one: annotators.index(one.annotator)):
        said[one.row].append(one)
    labelled, still_open = list[Labelled](), list[Open]()
    for row in rows:
        given = said[row.id]
        label, why = _majority([one.label for one in given], len(annotators), min_share)
        if label is not None:
            agreeing = [one for one in given if one.label == label]
            labelled.append(_labelled(row, label, "majority", given, agreeing, _moved(row, given, len(annotators))))
        elif answer := adjudicated.get(row.id):
            labelled.append(_labelled(row, answer.label, ADJUDICATOR, given, [answer], answer.category))
        else:
            still_open.append(Open(row, why, tuple(given)))
    return labelled, still_open


def _majority(said: Sequence[str], people: int, min_share: float) -> tuple[str | None, str]:
    """The label that stands, or why none does."""
    counts = Counter(said)
    best = max(LABELS, key=lambda label: counts[label])
    if 2 * counts[best] > people and counts[best] / people >= min_share:
        return best, ""
    if 2 * counts[best] > people:
        return None, f"only {counts[best]} of {people} said {best}"
    told = [f"{counts[label]} {label}" for label in page.ANSWERS if counts[label]]
    missing = people - len(said)
    return None, "no majority: " + ", ".join(told + ([f"{missing} missing"] if missing else []))


def _moved(row: BenchRow, said: Sequence[Annotation], people: int) -> str:
    category, count = Counter(one.category for one in said).most_common(1)[0]
    return category if 2 * count > people and category != row.sub_category_name else ""


def _labelled(
    row: BenchRow, label: str, by: str, said: Sequence[Annotation], agreeing: Sequence[Annotation], category: str
) -> Labelled:
    votes = {one.annotator: one.label for one in said}
    return Labelled(row.id, label, by, votes, category, tuple(one.reason for one in agreeing if one.reason))


def moved(row: BenchRow, category: str) -> BenchRow:
    """The row in the sub-category that it was moved to; itself where that is empty."""
    if not category:
        return row
    return BenchRow.model_validate(
        row.model_dump() | {"category_name": sub_category(category).scenario, "sub_category_name": category}
    )
