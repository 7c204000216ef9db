"""From annotations to labels: the majority, the queue for an adjudicator, and the adjudicator's answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from libra_guard.bench import page
from libra_guard.bench.agreement import LABELS
from libra_guard.bench.collect import Annotation
from libra_guard.bench.rounds import ADJUDICATOR
from libra_guard.bench.rows import BenchRow
from libra_guard.taxonomy import scenario, sub_category

MIN_SHARE = 2 / 3
"""Share of a round's annotators that have to give a label for it to stand."""
_MASKS = "甲乙丙丁戊己庚辛壬癸"


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
    """The adjudicator's, or else those of the annotators who gave the label, in their order."""


class Open(NamedTuple):
    """A row that the annotators did not settle."""

    row: BenchRow
    why: str
    """In Chinese, for the adjudicator."""
    said: tuple[Annotation, ...]

    def as_dict(self, key: str, annotators: Sequence[str]) -> dict[str, str]:
        """A line of the queue: what an adjudicator has to see, and three fields to fill in.

        Args:
            key: Of the row.
            annotators: In place of their names it says 甲, 乙, 丙.
        """
        masks = {name: _mask(number) for number, name in enumerate(annotators)}
        answers = "\n".join(f"{masks[one.annotator]}：{_told(one)}" for one in self.said)
        return self.row.shown(key) | {"why": self.why, "answers": answers} | dict.fromkeys(page.FILLED, "")


def settle(
    rows: Sequence[BenchRow],
    annotations: Iterable[Annotation],
    annotators: Sequence[str],
    adjudicated: Mapping[str, Annotation],
    min_share: float = MIN_SHARE,
) -> tuple[list[Labelled], list[Open]]:
    """Gives each row its label, or puts it into the queue.

    A label stands where more than half of the round's annotators gave it, and at least ``min_share`` of them: who gave
    none, or was not sure, counts against it. Where most moved the row to another scenario, whose rules they did not
    have in view, an adjudicator decides. The adjudicator's answer is taken for rows of the queue only.

    Args:
        rows: Of the round.
        annotations: Of all annotators.
        annotators: Their names.
        adjudicated: Row → answer; where it names no category, that of most annotators holds.
        min_share: Of the annotators, in [0, 1].

    Returns:
        The labelled rows and the open ones, each in the order of the rows.
    """
    said: defaultdict[str, list[Annotation]] = defaultdict(list)
    for one in sorted(annotations, key=lambda one: annotators.index(one.annotator)):
        said[one.row].append(one)
    labelled, still_open = list[Labelled](), list[Open]()
    for row in rows:
        given, answer = said[row.id], adjudicated.get(row.id)
        label, why = _majority([one.label for one in given], len(annotators), min_share)
        category = _moved(row, given, len(annotators))
        if label is not None and moved(row, category).category_name == row.category_name:
            labelled.append(_labelled(row, label, "majority", given, [], category))
        elif answer is not None:
            category = answer.category or category
            labelled.append(_labelled(row, answer.label, ADJUDICATOR, given, [answer], category))
        else:
            still_open.append(Open(row, "；".join(filter(None, (why, _proposal(row, category)))), tuple(given)))
    return labelled, still_open


def moved(row: BenchRow, category: str) -> BenchRow:
    """The row in the sub-category that it was moved to; itself where that is empty."""
    if not category:
        return row
    return BenchRow.model_validate(
        row.model_dump() | {"category_name": sub_category(category).scenario, "sub_category_name": category}
    )


def _majority(said: Sequence[str], people: int, min_share: float) -> tuple[str | None, str]:
    """The label that stands, or why none does."""
    counts = Counter(said)
    best = max(LABELS, key=lambda label: counts[label])
    if 2 * counts[best] > people and counts[best] / people >= min_share:
        return best, ""
    if 2 * counts[best] > people:
        return None, f"{people} 人中只有 {counts[best]} 人选“{best}”"
    told = [f"{counts[label]} 人选“{label}”" for label in page.ANSWERS if counts[label]]
    missing = people - len(said)
    return None, "没有过半：" + "，".join(told + ([f"{missing} 人未答"] if missing else []))


def _moved(row: BenchRow, said: Sequence[Annotation], people: int) -> str:
    category, count = Counter(one.category for one in said).most_common(1)[0] if said else ("", 0)
    return category if 2 * count > people and category != row.sub_category_name else ""


def _proposal(row: BenchRow, category: str) -> str:
    if not category:
        return ""
    sub = sub_category(category)
    other = scenario(sub.scenario)
    place = f"另一场景“{other.name_zh}”的" if other.name != row.category_name else ""
    return f"多数人建议改为{place}“{sub.name_zh}”，category 一栏留空即采用，不采用请填合适的类别"


def _labelled(
    row: BenchRow, label: str, by: str, said: Sequence[Annotation], last: Sequence[Annotation], category: str
) -> Labelled:
    votes = {one.annotator: one.label for one in said}
    # An adjudicator who agrees with some of them may leave the reason to them.
    reasons = [one.reason for one in last if one.reason] or [
        one.reason for one in said if one.label == label and one.reason
    ]
    return Labelled(row.id, label, by, votes, "" if category == row.sub_category_name else category, tuple(reasons))


def _told(one: Annotation) -> str:
    category = f"建议类别：{sub_category(one.category).name_zh}" if one.category else ""
    return "　".join(filter(None, (one.label, category, one.reason)))


def _mask(number: int) -> str:
    return _MASKS[number] if number < len(_MASKS) else f"标注员{number + 1}"
