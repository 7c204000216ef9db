"""The rows that a benchmark is made of: question and answer in a known scenario, each with an id of its own."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from libra_guard.data.base import normalise_question, untranslated
from libra_guard.errors import UsageError
from libra_guard.io import BadRow, Row, dumps, read_rows
from libra_guard.records import Origin, check_text, content_id, row_id
from libra_guard.taxonomy import scenario, sub_category

NO_SCENARIO = "it is of no scenario"
"""Why a row is no row of a benchmark whose ``category_name`` is empty, as that of everyday questions is."""
_FORMULA = tuple("=+-@\t\r")


class BenchRow(BaseModel):
    """What an annotator is shown of a row and where it comes from, and nothing of what any judge thought of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    source: str = ""
    category_name: str
    """English name of the scenario; any of its names is read."""
    sub_category_name: str = ""
    question: str
    response: str
    root_question: str = ""
    """The question that the row's own was made of, as the data pipeline tells it; not shown to annotators."""
    original: dict[str, str] = Field(default_factory=dict)
    """Of a translated row: its ``question`` as it was before; not shown either."""

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        if re.fullmatch(r"行\d+", value):
            raise ValueError(f"'{value}' is what sheets call one of their rows; give it another id")
        return value

    @field_validator("question", "response")
    @classmethod
    def _text(cls, value: str) -> str:
        return check_text(value, "text")

    @field_validator("root_question")
    @classmethod
    def _root(cls, value: str) -> str:
        return check_text(value, "text") if value else ""

    @field_validator("original", mode="before")
    @classmethod
    def _original(cls, value: object) -> dict[str, str]:
        found = untranslated(value)
        return {"question": check_text(found, "text")} if found else {}

    @field_validator("category_name")
    @classmethod
    def _scenario(cls, value: str) -> str:
        return _named(scenario, value)

    @field_validator("sub_category_name")
    @classmethod
    def _sub(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            return ""
        name, category = _named(sub_category, value), info.data.get("category_name")
        # Of a row whose scenario is unknown, that is told.
        if category and scenario(sub_category(name).scenario).name != category:
            raise ValueError(f"'{name}' is no sub-category of {category}")
        return name

    def shown(self, key: str = "") -> dict[str, str]:
        """The row for people: its categories in Chinese, and under ``row`` its key, or its id where none is given."""
        sub = sub_category(self.sub_category_name).name_zh if self.sub_category_name else ""
        names = {"row": key or self.id, "scenario": scenario(self.category_name).name_zh, "sub_category": sub}
        return names | {"question": self.question, "response": self.response}


def row_keys(rows: Sequence[BenchRow]) -> dict[str, str]:
    """Key → id: names for sheets, 行0001 and on in the order of the rows.

    Spreadsheet programs make numbers and dates of ids such as ``0012``, ``3-4`` or ``123456789012345678``.
    """
    return {f"行{number:04d}": row.id for number, row in enumerate(rows, 1)}


def read_bench_rows(path: str) -> Iterator[tuple[BenchRow, dict[str, Any]] | BadRow]:
    """Streams the rows that can be labelled, each with its record as it stands in the file.

    A row without an id is given one by its texts. A second row with an id, or with the question (normalised) and
    the answer of another, is a ``BadRow``.

    Raises:
        UsageError: There is no such file.
    """
    names, pairs = dict[str, int](), dict[tuple[str, str], str]()
    for number, row in enumerate(read_rows(path), 1):
        if isinstance(row, BadRow):
            yield row
            continue
        found = _row(row)
        if isinstance(found, BadRow):
            yield found
            continue
        first = names.setdefault(found.id, number)
        twin = pairs.setdefault((normalise_question(found.question), found.response.strip()), found.id)
        if first != number:
            yield _bad(row, f"id: '{found.id}' is also that of row {first}")
        elif twin != found.id:
            yield _bad(row, f"the question and answer of row '{twin}'")
        else:
            yield found, row.data


def as_lines(records: Iterable[Any]) -> str:
    """JSON lines of records, pydantic's or plain."""
    plain = (record.model_dump(mode="json") if isinstance(record, BaseModel) else record for record in records)
    return "".join(dumps(record) + "\n" for record in plain)


def as_csv(records: Sequence[dict[str, str]]) -> str:
    """A table that spreadsheet programs open: with a byte-order mark, and no text that they would run as a formula.

    Such a text gets an apostrophe before it. What comes back is read by the row's id, so nothing is lost by it.
    """
    if not records:
        return "\ufeff"
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]))
    writer.writeheader()
    writer.writerows({k: f"'{v}" if v.startswith(_FORMULA) else v for k, v in record.items()} for record in records)
    return "\ufeff" + stream.getvalue()


def _row(row: Row) -> BenchRow | BadRow:
    if row.data.get("category_name") == "":
        return _bad(row, NO_SCENARIO)
    name = row_id(row.data) or content_id({key: row.data.get(key) for key in ("question", "response")})
    data = {k: v for k, v in row.data.items() if v is not None} | {"id": name}
    if not data.get("source") and data.get("origin") in list(Origin):
        data["source"] = Origin(data["origin"]).source
    try:
        return BenchRow.model_validate(data)
    except ValidationError as error:
        found = error.errors()[0]
        return _bad(row, f"{'.'.join(map(str, found['loc']))}: {found['msg'].removeprefix('Value error, ')}")


def _bad(row: Row, reason: str) -> BadRow:
    return BadRow(row.file, row.line, reason, dumps(row.data))


def _named(find: Any, value: str) -> str:
    try:
        return str(find(value).name)
    except UsageError as error:
        raise ValueError(str(error)) from None
