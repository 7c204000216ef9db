"""Whether a benchmark's questions, or its posts, stand in training data, the same or nearly so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from libra_guard.bench.rows import BenchRow
from libra_guard.data.base import own_text
from libra_guard.errors import DataError
from libra_guard.io import BadRow, read_rows


@dataclass(frozen=True)
class Leak:
    """A row whose question, or the post that it is, stands in training data."""

    row: str
    """Its id."""
    file: str
    line: int
    question: str
    """The nearest one of that file."""
    similarity: float
    """Jaccard similarity of the n-grams (``data/near_duplicates.py``); 1 where the questions are the same."""


def find_leaks(rows: Sequence[BenchRow], against: Iterable[str]) -> list[Leak]:
    """The rows whose question stands in one of the files, each with the nearest place of the first such file.

    Args:
        rows: Of the benchmark.
        against: Files or folders of training data, whose rows have a ``question``.

    Raises:
        UsageError: A file is missing.
        DataError: A file has no row with a question: a check of nothing must not read as a pass.
        MissingExtraError: A library for near-duplicates is not installed.
    """
    found: dict[str, Leak] = {}
    for path in against:
        for leak in _leaks(rows, path):
            found.setdefault(leak.row, leak)
    return [found[row.id] for row in rows if row.id in found]


def _leaks(rows: Sequence[BenchRow], path: str) -> Iterable[Leak]:
    from libra_guard.data.near_duplicates import NearSettings, matches, sign

    theirs = [
        (row.file, row.line, own_text(question, row.data.get("response")))
        for row in read_rows(path)
        if not isinstance(row, BadRow) and isinstance(question := row.data.get("question"), str)
    ]
    if not theirs:
        raise DataError(f"{path}: no row has a 'question'; nothing could be checked against it")
    settings = NearSettings()
    near = matches(
        sign([own_text(row.question, row.response) for row in rows], settings),
        sign([text for _, _, text in theirs], settings),
    )
    for row, place, similarity in zip(rows, near.of.tolist(), near.similarity.tolist(), strict=True):
        if place >= 0:
            file, line, question = theirs[place]
            yield Leak(row.id, file, line, question, round(similarity, 4))
