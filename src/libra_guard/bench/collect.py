"""What annotators sent back, whatever its form, as one list; and everything that is wrong with it, with its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from libra_guard.bench import page
from libra_guard.bench.reading import Place, Said, Unread, read_said
from libra_guard.bench.rows import BenchRow, row_keys
from libra_guard.data.base import normalise_question
from libra_guard.errors import UsageError
from libra_guard.evaluate.predictions import printable
from libra_guard.taxonomy import SUB_CATEGORIES, sub_category

NOT_LABELLED = "not labelled"
_COMPARED = 100
_NOWHERE = Place(0)


class Annotation(NamedTuple):
    """What one annotator said of one row."""

    row: str
    annotator: str
    label: str
    """安全, 不安全 or 不确定."""
    category: str
    """English name of a better sub-category; empty where the annotator named none."""
    reason: str


class Fault(NamedTuple):
    """Something that was sent back and does not count, should have been and was not, or looks wrong."""

    annotator: str
    file: str
    line: int
    """0 where it stands in no line."""
    row: str
    reason: str
    sheet_row: int = 0
    """See ``Place``."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        if self.sheet_row and self.sheet_row != self.line:
            place += f" (row {self.sheet_row} of the sheet)"
        return printable(f"{self.annotator}: {place}: {f'{self.row}: ' if self.row else ''}{self.reason}")


def read_annotations(
    rows: Sequence[BenchRow], annotator: str, file: str, answers: Sequence[str] = page.ANSWERS
) -> tuple[list[Annotation], list[Fault]]:
    """Reads what an annotator sent back, in any form that ``read_said`` takes.

    A row that the annotator answered twice counts once where both answers are the same, and not at all where they
    differ. Rows of another person's sheet do not count. A label counts also where the category beside it is unknown.

    Args:
        rows: Of the round, all of them: the keys of the sheets are their numbers.
        annotator: Who sent it.
        file: Its path.
        answers: The labels that are allowed.

    Returns:
        The answers in the order of the rows, and the faults.

    Raises:
        UsageError: There is no such file.
    """
    faults = list[Fault]()

    def fault(place: Place, row: str, reason: str) -> None:
        faults.append(Fault(annotator, file, place.line, row, reason, place.sheet_row))

    find = _Finder(rows)
    said: defaultdict[str, list[tuple[Place, Annotation]]] = defaultdict(list)
    faulty, blank, others = set[str](), dict[str, Said](), list[Said]()
    for one in read_said(file):
        if isinstance(one, Unread):
            fault(one.place, "", one.reason)
        elif one.person and one.person.removeprefix("'").casefold() != annotator.casefold():
            others.append(one)
        elif not (name := find.row(one)):
            fault(one.place, one.row, find.why_not(one))
        elif not one.label:
            blank[name] = one
        elif one.label not in answers:
            faulty.add(name)
            fault(one.place, name, f"label '{one.label[:50]}' is none of {', '.join(answers)}")
        else:
            category, unknown = _category(one.category)
            said[name].append((one.place, Annotation(name, annotator, one.label, category, one.reason)))
            if unknown:
                fault(one.place, name, unknown)
    if others:
        whose = others[0].person
        fault(others[0].place, "", f"{len(others)} rows are from {whose}'s sheet and do not count for {annotator}")
    nothing = not said and not faulty and not any(one.filled for one in blank.values())
    if nothing:
        fault(_NOWHERE, "", f"labelled nothing of {len(rows)} rows")
    found = list[Annotation]()
    for row in rows:
        given = said.get(row.id, [])
        different = {(annotation.label, annotation.category) for _, annotation in given}
        for place, _ in given[1:]:
            same = len(different) == 1
            fault(place, row.id, f"labelled a second time, {'with the same' if same else 'with another'} answer")
        if len(different) == 1:
            found.append(given[0][1])
        elif not given and row.id not in faulty:
            left = blank.get(row.id)
            if left is not None and left.filled:
                fault(left.place, row.id, f"{NOT_LABELLED}, though a reason or a category is given")
            elif not nothing:
                fault(left.place if left else _NOWHERE, row.id, NOT_LABELLED)
    return found, faults


def answered(rows: Sequence[BenchRow], file: str) -> list[str]:
    """Ids of the rows to which a file gives some answer, in the order of the file.

    Raises:
        UsageError: There is no such file.
    """
    find = _Finder(rows)
    said = (one for one in read_said(file) if isinstance(one, Said) and one.label)
    return list(dict.fromkeys(name for one in said if (name := find.row(one))))


class _Finder:
    """Which row is meant, by its id or its key in the sheets."""

    def __init__(self, rows: Sequence[BenchRow]) -> None:
        self._rows = {row.id: row for row in rows}
        self._keys = row_keys(rows)

    def row(self, said: Said) -> str:
        """Its id; empty where it is none of the rows."""
        # An id that a spreadsheet would run as a formula has an apostrophe before it.
        name = next((name for name in (said.row, said.row.removeprefix("'")) if name in self._rows), "")
        if name:
            return name
        name = self._keys.get(said.row, "")
        return name if name and self._is_question(said, name) else ""

    def why_not(self, said: Said) -> str:
        if not said.row:
            return f"no '{page.ROW}' tells which row"
        if said.row in self._keys:
            return "another question than this round's: is the sheet of another round?"
        return "no row to be labelled has this id"

    def _is_question(self, said: Said, name: str) -> bool:
        # Every round has a 行0001. A spreadsheet cuts long texts, so that the beginning has to do.
        theirs, ours = (normalise_question(text)[:_COMPARED] for text in (said.question, self._rows[name].question))
        return not theirs or theirs == ours


def _category(text: str) -> tuple[str, str]:
    """English name of a sub-category, and what is wrong with it; the names told are those that annotators see."""
    try:
        return (sub_category(text).name if text else ""), ""
    except UsageError:
        names = "、".join(sub.name_zh for sub in SUB_CATEGORIES)
        return "", f"the label counts; category '{text[:50]}' is none of {names}"
