"""Predictions and labels: read, joined by id (by content where there is none), and everything odd counted and named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from libra_guard.errors import DataError
from libra_guard.guards.libra_answer import read_answer
from libra_guard.io import BadRow, Row, list_files, read_rows
from libra_guard.records import Label, content_id

NAMED = 5
"""So many examples of each kind of fault are named."""
NO_NAME = "(none)"
"""The source or scenario of a row that tells none."""
_TWO: list[object] = [Label.SAFE, Label.UNSAFE]
_ANSWERS = re.compile(r".*\.jsonl?(\.gz)?", re.IGNORECASE)
_BOOKKEEPING = re.compile(r"rejects.*\.jsonl|run.*\.json(?!l)|\.")
_Keyed = TypeVar("_Keyed", "Prediction", "Labelled")


class Key(NamedTuple):
    """What a row is joined by."""

    id: str | None
    """As text, so that 7 and "7" are one; None where the row has no id."""
    content: str | None
    """Digest of question and answer; None where there is no question."""

    def __str__(self) -> str:
        return f"id {self.id}" if self.id is not None else f"{self.content}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of a guard."""

    key: Key
    label: Label | None
    """None where the answer could not be read."""
    score: float | None
    """Unsafe score in [0, 1]; None where there is none."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row of the benchmark."""

    key: Key
    source: str
    scenario: str
    unsafe: bool


@dataclass
class Tally:
    """Counts of what was odd, with the first few named."""

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, what: str) -> None:
        """Counts one more."""
        self.counts[kind] += 1
        examples = self.named.setdefault(kind, [])
        if len(examples) < NAMED:
            examples.append(printable(what))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.counts + other.counts, {**self.named, **other.named})


class Matched(NamedTuple):
    """A row of the benchmark with the guard's answer to it."""

    truth: Labelled
    prediction: Prediction


@dataclass(frozen=True)
class Joined:
    """Everything that can be scored, in the labels' order."""

    rows: list[Matched]
    labels: list[Labelled]
    tally: Tally


def printable(value: object) -> str:
    """A text that any terminal and any file takes: no control characters, no lone surrogates."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def load_predictions(path: Path) -> tuple[list[Prediction], Tally]:
    """Reads a file, or every ``.json`` and ``.jsonl`` of a folder but ``rejects*`` and ``run*.json``.

    Args:
        path: Rows are objects with ``verdict``, or with the model's text in ``critic``.

    Raises:
        UsageError: There is no such file.
        DataError: No row could be a prediction.
    """
    tally, found, answered = Tally(), list[Prediction](), False
    for row in (row for file in _files(path) for row in read_rows(file)):
        if isinstance(row, BadRow) or (key := _key(row.data)) is None:
            tally.add("bad_prediction_rows", _fault(row))
            continue
        answered |= "verdict" in row.data or "critic" in row.data
        found.append(_prediction(key, row.data, tally))
    if not found:
        raise DataError(f"{path}: no predictions" + _examples(tally, "bad_prediction_rows"))
    if not answered:
        raise DataError(f"{path}: no row has a 'verdict' or a 'critic'; is this what 'libra infer' wrote?")
    return found, tally


def load_labels(path: str | Path) -> tuple[list[Labelled], Tally]:
    """Reads a benchmark in the Libra-Test format, from anything that ``read_rows`` reads.

    Raises:
        UsageError: There is no such file.
        DataError: No row has a label that can be used.
    """
    tally, found = Tally(), list[Labelled]()
    for row in read_rows(path):
        if isinstance(row, BadRow) or (key := _key(row.data)) is None:
            tally.add("bad_label_rows", _fault(row))
            continue
        label = row.data.get("label")
        if label not in _TWO:
            tally.add("bad_labels", f"{_place(row)} ({key}): {label!r}"[:200])
            continue
        source, scenario = _name(row.data.get("source")), _name(row.data.get("category_name"))
        found.append(Labelled(key, source, scenario, unsafe=label == Label.UNSAFE))
    if not found:
        why = _examples(tally, "bad_label_rows") + _examples(tally, "bad_labels")
        raise DataError(f"{path}: no row with a label 安全 or 不安全{why}")
    return found, tally


def join(labels: Iterable[Labelled], predictions: Iterable[Prediction]) -> Joined:
    """Gives each row of the benchmark its prediction: by id, or by content where one of the two has no id.

    Of rows with the same key the first is kept.
    """
    tally = Tally()
    kept = _first_of_each(predictions, "duplicate_predictions", tally)
    truths = _first_of_each(labels, "duplicate_labels", tally)
    by_id: dict[str | None, Prediction] = {p.key.id: p for p in kept if p.key.id is not None}
    # Reversed, so that of two with the same content the first stays.
    by_content: dict[str | None, Prediction] = {p.key.content: p for p in reversed(kept) if p.key.content is not None}
    nameless: dict[str | None, Prediction] = {p.key.content: p for p in kept if p.key.id is None}
    rows, used = [], set()
    for truth in truths:
        same_text = by_content if truth.key.id is None else nameless
        prediction = by_id.get(truth.key.id) or same_text.get(truth.key.content)
        if prediction is None:
            tally.add("missing_predictions", str(truth.key))
            continue
        if None not in (truth.key.content, prediction.key.content) and truth.key.content != prediction.key.content:
            tally.add("different_texts", str(truth.key))
        used.add(prediction.key)
        rows.append(Matched(truth, prediction))
    for prediction in kept:
        if prediction.key not in used:
            tally.add("missing_labels", str(prediction.key))
    return Joined(rows, truths, tally)


def _first_of_each(rows: Iterable[_Keyed], kind: str, tally: Tally) -> list[_Keyed]:
    kept: dict[str, _Keyed] = {}
    for row in rows:
        if kept.setdefault(str(row.key), row) is not row:
            tally.add(kind, str(row.key))
    return list(kept.values())


def _prediction(key: Key, row: dict[str, Any], tally: Tally) -> Prediction:
    """Reads the verdict; where the row has none, the model's text (of several, the first)."""
    verdict = row.get("verdict")
    if not isinstance(verdict, dict):
        text = row.get("critic")
        return Prediction(key, read_answer(text[0] if isinstance(text, list) and text else text).label, None)
    label = next((known for known in Label if known == verdict.get("label")), None)
    score = verdict.get("unsafe_score")
    if score is not None and not (isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1):
        tally.add("bad_scores", f"{key}: {score!r}"[:200])
        score = None
    return Prediction(
        key, label if verdict.get("valid", True) is True else None, None if score is None else float(score)
    )


def _key(row: dict[str, Any]) -> Key | None:
    name, question, response = row.get("id"), row.get("question"), row.get("response")
    told = isinstance(name, str | int | float) and name != ""
    content = content_id({"question": question, "response": response}) if isinstance(question, str) else None
    return Key(str(name) if told else None, content) if told or content else None


def _fault(row: Row | BadRow) -> str:
    return f"{_place(row)}: {row.reason if isinstance(row, BadRow) else 'neither an id nor a question'}"


def _place(row: Row | BadRow) -> str:
    return f"{Path(row.file).name}:{row.line}"


def _name(value: object) -> str:
    return printable(value).strip() or NO_NAME if isinstance(value, str) else NO_NAME


def _examples(tally: Tally, kind: str) -> str:
    return f"; {tally.counts[kind]} bad: {'; '.join(tally.named[kind])}" if tally.counts[kind] else ""


def _files(path: Path) -> list[Path]:
    files = list_files(path)
    if path.is_dir():
        # Only these are answers: what else stands there is bookkeeping, or a report that was saved beside them.
        files = [f for f in files if _ANSWERS.fullmatch(f.name) and not _BOOKKEEPING.match(f.name)]
        if not files:
            raise DataError(f"{path}: no .json or .jsonl with predictions in this folder")
    return files
