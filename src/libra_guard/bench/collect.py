"""What annotators sent back, whatever its form, as one list; and everything that is wrong with it, with its place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from libra_guard.bench import page
from libra_guard.bench.rows import BenchRow
from libra_guard.errors import UsageError
from libra_guard.evaluate.predictions import printable
from libra_guard.io import BadRow, Row, read_rows
from libra_guard.taxonomy import sub_category

NOT_LABELLED = "not labelled"
_ROW = "row"


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
    """Something that was sent back and does not count, or should have been and was not."""

    annotator: str
    file: str
    line: int
    """0 where it stands in no line."""
    row: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return printable(f"{self.annotator}: {place}: {f'{self.row}: ' if self.row else ''}{self.reason}")


class _Said(NamedTuple):
    line: int
    row: str
    label: Any
    category: Any
    reason: Any


def read_annotations(
    rows: Sequence[BenchRow], annotator: str, file: str, answers: Sequence[str] = page.ANSWERS
) -> tuple[list[Annotation], list[Fault]]:
    """Reads what an annotator sent back: Label Studio's export in JSON, or a filled sheet in CSV or JSON lines.

    (Its exports in JSON-MIN and CSV have the sheet's columns, and are read as one.)

    A row that the annotator answered twice counts once where both answers are the same, and not at all where they
    differ.

    Args:
        rows: Of the round.
        annotator: Who sent it.
        file: Its path.
        answers: The labels that are allowed.

    Returns:
        The answers in the order of the rows, and the faults.

    Raises:
        UsageError: There is no such file.
    """
    faults = list[Fault]()

    def fault(line: int, row: str, reason: str) -> None:
        faults.append(Fault(annotator, file, line, row, reason))

    known = {row.id for row in rows}
    said: defaultdict[str, list[tuple[int, Annotation]]] = defaultdict(list)
    faulty, blank = set[str](), dict[str, int]()
    for one in _all_said(file, fault):
        # A sheet's id that a spreadsheet would run as a formula has an apostrophe before it.
        name = one.row if one.row in known else one.row.removeprefix("'")
        if name not in known:
            fault(one.line, one.row, "no row to be labelled has this id" if one.row else f"no '{_ROW}' tells which row")
            continue
        if not _text(one.label):
            blank[name] = one.line
            continue
        try:
            said[name].append((one.line, _annotation(one, name, annotator, answers)))
        except ValueError as error:
            faulty.add(name)
            fault(one.line, name, str(error))
    if not said:
        fault(0, "", f"labelled nothing of {len(rows)} rows")
        return [], faults
    found = list[Annotation]()
    for row in rows:
        given = said.get(row.id, [])
        different = {(annotation.label, annotation.category) for _, annotation in given}
        for line, _ in given[1:]:
            same = len(different) == 1
            fault(line, row.id, f"labelled a second time, {'with the same' if same else 'with another'} answer")
        if len(different) == 1:
            found.append(given[0][1])
        elif not given and row.id not in faulty:
            fault(blank.get(row.id, 0), row.id, NOT_LABELLED)
    return found, faults


def _all_said(file: str, fault: Callable[[int, str, str], None]) -> Iterator[_Said]:
    for row in read_rows(file):
        if isinstance(row, BadRow):
            fault(row.line, "", row.reason)
        elif isinstance(row.data.get("data"), dict):
            yield from _task(row, fault)
        else:
            yield _Said(row.line, _text(row.data.get(_ROW)), *(row.data.get(name) for name in page.FILLED))


def _task(row: Row, fault: Callable[[int, str, str], None]) -> Iterator[_Said]:
    """The annotations of a task in Label Studio's export; none where nobody has opened it."""
    name = _text(row.data["data"].get(_ROW))
    annotations = row.data.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        values = _values(annotation.get("result"))
        yield _Said(row.line, name, *(values.get(part) for part in page.FILLED))


def _values(result: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in result if isinstance(result, list) else ():
        value = part.get("value") if isinstance(part, dict) else None
        if isinstance(value, Mapping):
            texts = value.get("choices", value.get("text"))
            values[str(part.get("from_name"))] = "\n".join(map(str, texts)) if isinstance(texts, list) else texts
    return values


def _annotation(said: _Said, row: str, annotator: str, answers: Sequence[str]) -> Annotation:
    label = _text(said.label)
    if label not in answers:
        raise ValueError(f"label '{label[:50]}' is none of {', '.join(answers)}")
    try:
        category = sub_category(_text(said.category)).name if _text(said.category) else ""
    except UsageError as error:
        raise ValueError(f"category: {error}") from None
    return Annotation(row, annotator, label, category, _text(said.reason))


def _text(value: Any) -> str:
    # Characters that show nothing come with texts copied from chats and spreadsheets.
    return re.sub(r"^[\s\ufeff\u200b]+|[\s\ufeff\u200b]+$", "", str(value)) if value is not None else ""
