"""What stands in a file that came back, whatever its form: a filled sheet, or an export of Label Studio."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard import textfile
from libra_guard.bench import page
from libra_guard.errors import MissingExtraError, UsageError
from libra_guard.io import BadRow, Row, read_rows

XLSX = ".xlsx"


class Place(NamedTuple):
    """Where something stands."""

    line: int
    """0 where it stands in no line."""
    sheet_row: int = 0
    """Row of a table as spreadsheet programs count, to whom a cell of several lines is one row; 0 elsewhere."""


class Said(NamedTuple):
    """What a file says of a row, as it stands there; a text that is missing is empty."""

    place: Place
    row: str
    """The row's id, or its key in the sheets."""
    person: str
    """Whose sheet or task it is."""
    question: str
    label: str
    category: str
    reason: str

    @property
    def filled(self) -> bool:
        """Whether anything was filled in."""
        return any((self.label, self.category, self.reason))


class Unread(NamedTuple):
    """What could not be read."""

    place: Place
    reason: str


def read_said(file: str) -> Iterator[Said | Unread]:
    """Reads Label Studio's export in JSON, or a sheet in CSV, JSON lines or, with ``openpyxl``, xlsx.

    (Its exports in JSON-MIN and CSV have the sheet's columns, and are read as one.)

    Raises:
        UsageError: There is no such file, its kind is unknown, or the library for it is missing.
    """
    table = Path(textfile.plain_name(file).lower()).suffix == ".csv"
    # The first row of a table holds the names of its columns.
    for number, item in enumerate(_rows(file), 2):
        place = Place(item.line, number if table else 0)
        if isinstance(item, BadRow):
            yield Unread(place, item.reason)
        elif isinstance(item.data.get("data"), dict):
            yield from _task(item.data, place)
        else:
            yield _said(place, item.data, item.data)


def text_of(value: Any) -> str:
    """A value as text, without the blanks around it; empty where there is none."""
    # Characters that show nothing come with texts copied from chats and spreadsheets.
    return re.sub(r"^[\s\ufeff\u200b]+|[\s\ufeff\u200b]+$", "", str(value)) if value is not None else ""


def _rows(file: str) -> Iterator[Row | BadRow]:
    if Path(file).suffix.lower() != XLSX:
        yield from read_rows(file)
        return
    from libra_guard.data._xlsx import read_xlsx

    try:
        yield from read_xlsx(Path(file))
    except MissingExtraError as error:
        raise UsageError(f"{file}: save it as CSV in UTF-8; or, to read it as it is, {error}") from None


def _task(task: Mapping[str, Any], place: Place) -> Iterator[Said]:
    """The annotations of a task in Label Studio's export; none where nobody has opened it."""
    annotations = task.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            yield _said(place, task["data"], _values(annotation.get("result")))


def _said(place: Place, shown: Mapping[str, Any], filled: Mapping[str, Any]) -> Said:
    texts = (text_of(shown.get(name)) for name in (page.ROW, page.PERSON, page.QUESTION))
    return Said(place, *texts, *(text_of(filled.get(name)) for name in page.FILLED))


def _values(result: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in result if isinstance(result, list) else ():
        value = part.get("value") if isinstance(part, dict) else None
        if isinstance(value, Mapping):
            texts = value.get("choices", value.get("text"))
            values[str(part.get("from_name"))] = "\n".join(map(str, texts)) if isinstance(texts, list) else texts
    return values
