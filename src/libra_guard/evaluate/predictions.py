"""Predictions and labels: read, joined by id (by content where there is none), and everything odd counted and named."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from libra_guard.data.base import normalise_question
from libra_guard.errors import DataError
from libra_guard.evaluate.folder import find_files
from libra_guard.evaluate.published import read_published
from libra_guard.guards.libra_answer import read_answer
from libra_guard.io import BadRow, Row, read_rows
from libra_guard.messages import read_log
from libra_guard.predict.rows import ADDED, Fields, messages_field
from libra_guard.records import Label, Target, content_id, row_id

NAMED = 5
"""So many examples of each kind of fault are named."""
NO_NAME = "(none)"
"""The source or scenario of a row that tells none."""
_TWO: list[object] = [Label.SAFE, Label.UNSAFE]
_ABOUT = (*ADDED, "id", "label", "source", "category_name", "sub_category_name", "analyze")
"""What is said about a row, and may be said in one of the two files alone."""
_USUAL = Fields()
_Keyed = TypeVar("_Keyed", "Prediction", "Labelled")


class Key(NamedTuple):
    """What a row is joined by."""

    id: str | None
    """As text, so that 7 and "7" are one; None where the row has no id."""
    content: str | None
    """Digest of question and answer, or of the messages; None where a row that has an id has neither."""

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
    number: int = 0
    """Of the row in the file, from 0. Tells rows without an id apart that have the same texts."""
    question: str = ""
    """Of a post, which answers none, its text. Empty where the row tells none."""

    @property
    def group(self) -> str:
        """What the rows of one question share, normalised; of a row that tells none, its key."""
        return normalise_question(self.question) or str(self.key)


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


def load_predictions(path: Path, fields: Fields = _USUAL, *, published: bool = False) -> tuple[list[Prediction], Tally]:
    """Reads a file, or every ``.json`` and ``.jsonl`` of a folder but records of runs, their rejects, and reports.

    Args:
        path: Rows are objects with ``verdict``, or with the model's text in ``critic``.
        fields: Where the rows keep their texts, if not in the usual fields.
        published: The label is read from the model's text as the published script does (``read_published``), also
            where there is a verdict: that one is stricter, and calls 安全性未知 unreadable.

    Raises:
        UsageError: There is no such file.
        DataError: No row could be a prediction.
    """
    tally, found, answered = Tally(), list[Prediction](), False
    files = find_files(path).predictions
    if not files:
        raise DataError(f"{path}: no .json or .jsonl with predictions in this folder")
    for row in (row for file in files for row in read_rows(file)):
        if isinstance(row, BadRow) or (key := _key(row.data, fields)) is None:
            tally.add("bad_prediction_rows", _fault(row))
            continue
        answered |= "verdict" in row.data or "critic" in row.data
        found.append(_prediction(key, row.data, tally, published))
    if not found:
        raise DataError(f"{path}: no predictions" + _examples(tally, "bad_prediction_rows"))
    if not answered:
        raise DataError(f"{path}: no row has a 'verdict' or a 'critic'; is this what 'libra infer' wrote?")
    return found, tally


def load_labels(path: str | Path, fields: Fields = _USUAL, label_field: str = "label") -> tuple[list[Labelled], Tally]:
    """Reads a benchmark in the Libra-Test format, from anything that ``read_rows`` reads.

    Args:
        path: Of the benchmark.
        fields: Where the rows keep their texts, if not in the usual fields.
        label_field: Where they keep the label.

    Raises:
        UsageError: There is no such file.
        DataError: No row has a label that can be used.
    """
    tally, found = Tally(), list[Labelled]()
    for number, row in enumerate(read_rows(path)):
        if isinstance(row, BadRow) or (key := _key(row.data, fields, label_field)) is None:
            tally.add("bad_label_rows", _fault(row))
            continue
        label = row.data.get(label_field)
        if label not in _TWO:
            tally.add("bad_labels", f"{_place(row)} ({key}): {label!r}"[:200])
            continue
        source, scenario = _name(row.data.get("source")), _name(row.data.get("category_name"))
        found.append(Labelled(key, source, scenario, label == Label.UNSAFE, number, _question(row.data, fields)))
    if not found:
        why = _examples(tally, "bad_label_rows") + _examples(tally, "bad_labels")
        where = "" if label_field == "label" else f" in '{label_field}'"
        raise DataError(f"{path}: no row with a label 安全 or 不安全{where}{why}")
    return found, tally


def join(labels: Iterable[Labelled], predictions: Iterable[Prediction]) -> Joined:
    """Gives each row of the benchmark its prediction: by id, or by content where one of the two has no id.

    Of rows with the same id the first is kept. Rows without an id may be alike: the first of the benchmark gets the
    first prediction of their text, the second the second; where there are fewer predictions, one serves several rows.
    """
    tally = Tally()
    kept = _first_of_each(predictions, "duplicate_predictions", tally)
    truths = _first_of_each(labels, "duplicate_labels", tally)
    by_id: dict[str | None, Prediction] = {p.key.id: p for p in kept if p.key.id is not None}
    ids = {truth.key.id for truth in truths}
    nameless = _ByContent(p for p in kept if p.key.id is None)
    # A prediction whose id stands in the benchmark belongs to that row, and to others only where there is no other.
    unclaimed = _ByContent(p for p in kept if p.key.id is not None and p.key.id not in ids)
    named = _ByContent(by_id.values())
    rows, used = [], set()
    for truth in truths:
        prediction = by_id.get(truth.key.id) or nameless.next(truth.key)
        if prediction is None and truth.key.id is None:
            prediction = unclaimed.next(truth.key)
        prediction = prediction or nameless.first(truth.key)
        if prediction is None and truth.key.id is None:
            prediction = named.first(truth.key)
        if prediction is None:
            tally.add("missing_predictions", str(truth.key))
            continue
        if None not in (truth.key.content, prediction.key.content) and truth.key.content != prediction.key.content:
            tally.add("different_texts", str(truth.key))
        used.add(id(prediction))
        rows.append(Matched(truth, prediction))
    found = {row.prediction.key for row in rows}
    for prediction in kept:
        if id(prediction) not in used:
            # One more without an id, of a text that has its verdict, is no row that the benchmark lacks.
            kind = "duplicate_predictions" if prediction.key in found else "missing_labels"
            tally.add(kind, str(prediction.key))
    return Joined(rows, truths, tally)


class _ByContent:
    """Predictions by their texts; those of one text are given out in order."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self._all: defaultdict[str | None, list[Prediction]] = defaultdict(list)
        for prediction in predictions:
            if prediction.key.content is not None:
                self._all[prediction.key.content].append(prediction)
        self._left: dict[str | None, Iterator[Prediction]] = {c: iter(of) for c, of in self._all.items()}

    def next(self, key: Key) -> Prediction | None:
        return next(self._left.get(key.content, iter(())), None)

    def first(self, key: Key) -> Prediction | None:
        return next(iter(self._all.get(key.content, ())), None)


def _first_of_each(rows: Iterable[_Keyed], kind: str, tally: Tally) -> list[_Keyed]:
    """Without second rows of an id."""
    kept, ids = list[_Keyed](), set[str]()
    for row in rows:
        if row.key.id in ids:
            tally.add(kind, str(row.key))
            continue
        kept.append(row)
        if row.key.id is not None:
            ids.add(row.key.id)
    return kept


def _prediction(key: Key, row: dict[str, Any], tally: Tally, published: bool) -> Prediction:
    """Reads the verdict; where the row has none, the model's text (of several, the first)."""
    verdict, text = row.get("verdict"), row.get("critic")
    label = None
    if not isinstance(verdict, dict) or (published and text):
        said = text[0] if isinstance(text, list) and text else text
        label = read_published(said) if published else read_answer(said).label
    elif verdict.get("valid", True) is True:
        label = next((known for known in Label if known == verdict.get("label")), None)
    if not isinstance(verdict, dict):
        return Prediction(key, label, None)
    score = verdict.get("unsafe_score")
    if score is not None and not (isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1):
        tally.add("bad_scores", f"{key}: {score!r}"[:200])
        score = None
    return Prediction(key, label, None if score is None else float(score))


def _key(row: dict[str, Any], fields: Fields, label_field: str = "label") -> Key | None:
    name, content = row_id(row), _content(row, fields)
    if name is None and content is None:
        # The texts stand somewhere; who reads the same data again finds the same.
        rest = {k: v for k, v in row.items() if k not in (*_ABOUT, label_field)}
        content = content_id(rest) if rest else None
    return None if name is None and content is None else Key(name, content)


def _content(row: dict[str, Any], fields: Fields) -> str | None:
    for names in (fields, _USUAL):
        if (field := messages_field(row, names)) is not None and isinstance(row[field], list):
            return content_id(_pair(row[field]) or {"messages": row[field]})
        if isinstance(question := row.get(names.question), str):
            return content_id({"question": question, "response": row.get(names.response)})
    return None


def _question(row: dict[str, Any], fields: Fields) -> str:
    for names in (fields, _USUAL):
        if (field := messages_field(row, names)) is not None and isinstance(row[field], list):
            with suppress(ValueError):
                return read_log(row[field], field, Target.PROMPT).conversation.question
            return ""
        if isinstance(question := row.get(names.question), str):
            response = row.get(names.response)
            return response if row.get("form") == "post" and isinstance(response, str) else question
    return ""


def _pair(messages: Sequence[Any]) -> dict[str, Any] | None:
    """A question with or without its answer, as the row that keeps them in fields; None for other messages."""
    turns = [(m.get("role"), m.get("content")) if isinstance(m, dict) else (None, None) for m in messages]
    if [role for role, _ in turns] not in (["user"], ["user", "assistant"]):
        return None
    return {"question": turns[0][1], "response": turns[1][1] if len(turns) > 1 else None}


def _fault(row: Row | BadRow) -> str:
    return f"{_place(row)}: {row.reason if isinstance(row, BadRow) else 'neither an id nor a question'}"


def _place(row: Row | BadRow) -> str:
    return f"{Path(row.file).name}:{row.line}"


def _name(value: object) -> str:
    return printable(value).strip() or NO_NAME if isinstance(value, str) else NO_NAME


def _examples(tally: Tally, kind: str) -> str:
    return f"; {tally.counts[kind]} bad: {'; '.join(tally.named[kind])}" if tally.counts[kind] else ""
