"""An annotation round: a folder with what each annotator is given, and nothing of what others or judges think.

``round.json`` says what the round is, ``rows.jsonl`` holds its rows, ``config.xml`` the page of Label Studio,
``rules/`` the rules of all scenarios, for a row may turn out to belong to another. One annotator's rows are
``tasks/NAME.json`` (for Label Studio) and ``sheets/NAME.csv`` and ``.jsonl`` (for people without it, with
``说明.html``), in an order of their own: fatigue must not fall on the same rows for all. ``select.json`` says how the
rows were selected, where that is known; it is for the card, and no annotator sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator

from libra_guard.bench import page
from libra_guard.bench.guide import guide_html
from libra_guard.bench.rows import BenchRow, as_csv, as_lines, row_keys
from libra_guard.bench.rules import rules_hash, rules_of, task_html
from libra_guard.configuration import Strict, read_object
from libra_guard.errors import UsageError
from libra_guard.io import bytes_hash, write_atomic
from libra_guard.taxonomy import SCENARIOS

RECORD = "round.json"
ROWS = "rows.jsonl"
SELECTION = "select.json"
ADJUDICATOR = "adjudicator"
"""The name under which an adjudicator's answers stand; no annotator's."""
LEAST = 2
"""Annotators that a round has at least: one alone agrees with nobody."""


class RoundRecord(Strict):
    """What a round is."""

    format: int = 1
    name: str = Field(min_length=1)
    annotators: tuple[str, ...]
    seed: int = 0
    """Of the annotators' orders."""
    rows: int = Field(ge=1)
    rows_sha256: str
    rules: dict[str, str]
    """Slug of a scenario → hash of its rules."""
    page_sha256: str
    selection_sha256: str | None = None
    """Of ``select.json``; None where nothing tells how the rows were selected."""

    @field_validator("annotators")
    @classmethod
    def _annotators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) < LEAST:
            raise ValueError(f"a round needs {LEAST} annotators at least, better three")
        for name in names:
            # A spreadsheet makes a number or a date of a name that begins with a digit.
            if not name[:1].isalpha() or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"'{name}': an annotator's name is letters, digits, - and _, first a letter")
            if name.casefold() == ADJUDICATOR:
                raise ValueError(f"'{name}' is what an adjudicator's answers stand under: choose another name")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two annotators have one name")
        return names


class Round:
    """A round's folder.

    Args:
        folder: That ``make_round`` wrote.

    Raises:
        UsageError: It is none, or its rows are not those that it was made with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / RECORD).exists():
            raise UsageError(f"{folder}: no annotation round: there is no {RECORD}; `libra bench round` makes one")
        try:
            self.record = RoundRecord.model_validate(read_object(folder / RECORD))
        except ValidationError as error:
            raise UsageError(f"{folder / RECORD}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
        try:
            content = (folder / ROWS).read_bytes()
        except OSError as error:
            raise UsageError(f"{folder / ROWS}: {error.strerror}") from None
        if bytes_hash(content) != self.record.rows_sha256:
            raise UsageError(f"{folder / ROWS}: not the rows that this round was made with")
        self.rows = [BenchRow.model_validate_json(line) for line in content.splitlines()]

    def selection(self) -> dict[str, Any] | None:
        """How the rows were selected (``bench/provenance.py``); None where nothing tells it.

        Raises:
            UsageError: It is not what the round was made with.
        """
        wanted, path = self.record.selection_sha256, self.folder / SELECTION
        if wanted is None:
            return None
        if not path.exists() or bytes_hash(path.read_bytes()) != wanted:
            raise UsageError(f"{path}: not the selection that this round was made with")
        return read_object(path)

    @property
    def annotators(self) -> tuple[str, ...]:
        """Their names, in the order given."""
        return self.record.annotators

    def tasks(self, annotator: str) -> list[dict[str, Any]]:
        """What Label Studio is given for an annotator: ``{"data": …}``, in the annotator's order.

        Raises:
            UsageError: The round has no such annotator, or the file is damaged.
        """
        path = self.folder / "tasks" / f"{annotator}.json"
        try:
            found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: {error}") from None
        return found

    @classmethod
    def open_or_make(
        cls,
        folder: Path,
        name: str,
        rows: Sequence[BenchRow],
        annotators: Sequence[str],
        seed: int,
        selection: str | None = None,
    ) -> tuple[Self, bool]:
        """Makes the folder, or opens it where just this round stands there already.

        The record is written last: a round that has one is whole. A whole one is never written again, for people may
        have filled in its sheets.

        Args:
            folder: Of the round.
            name: Of the round.
            rows: That are to be labelled.
            annotators: Their names.
            seed: Of their orders.
            selection: Text of the file that says how the rows were selected.

        Returns:
            The round, and whether it was made.

        Raises:
            UsageError: Another round stands there, or a setting is impossible.
        """
        record = _record(name, rows, annotators, seed, selection)
        if (folder / RECORD).exists():
            there = cls(folder)
            if there.record != record:
                differ = [key for key, value in record if value != getattr(there.record, key)]
                raise UsageError(f"{folder} holds another round ({', '.join(differ)} differ): choose another --out")
            return there, False
        if selection is not None:
            write_atomic(folder / SELECTION, selection)
        for path, text in _files(record, rows):
            write_atomic(folder / path, text)
        write_atomic(folder / RECORD, record.model_dump_json(indent=2) + "\n")
        return cls(folder), True


def _record(
    name: str, rows: Sequence[BenchRow], annotators: Sequence[str], seed: int, selection: str | None
) -> RoundRecord:
    try:
        return RoundRecord(
            name=name,
            annotators=tuple(annotators),
            seed=seed,
            rows=len(rows),
            rows_sha256=bytes_hash(as_lines(rows).encode()),
            rules={one.slug: rules_hash(one.slug) for one in SCENARIOS},
            page_sha256=bytes_hash(page.config().encode()),
            selection_sha256=None if selection is None else bytes_hash(selection.encode()),
        )
    except ValidationError as error:
        found = error.errors()[0]
        raise UsageError(f"{found['loc'][0]}: {found['msg'].removeprefix('Value error, ')}") from None


def _files(record: RoundRecord, rows: Sequence[BenchRow]) -> Iterator[tuple[str, str]]:
    yield ROWS, as_lines(rows)
    yield "config.xml", page.config()
    for slug in record.rules:
        yield f"rules/{slug}.md", rules_of(slug)
    yield "sheets/说明.html", guide_html(record.name, record.rules)
    kinds = {(row.category_name, row.sub_category_name) for row in rows}
    html = {kind: task_html(*kind) for kind in kinds}
    keys = {row: key for key, row in row_keys(rows).items()}
    for annotator in record.annotators:
        own = list(rows)
        Random(f"{record.seed}:round:{annotator}").shuffle(own)
        person = {page.PERSON: annotator}
        rules = [{"rules": html[row.category_name, row.sub_category_name]} for row in own]
        tasks = [{"data": row.shown() | person | own_rules} for row, own_rules in zip(own, rules, strict=True)]
        yield f"tasks/{annotator}.json", json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"
        sheet = [row.shown(keys[row.id]) | person | dict.fromkeys(page.FILLED, "") for row in own]
        yield f"sheets/{annotator}.jsonl", as_lines(sheet)
        yield f"sheets/{annotator}.csv", as_csv(sheet)
