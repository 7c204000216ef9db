"""Takes away what stands there twice, and what a benchmark or another held-out file asks already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libra_guard.data.base import own_text
from libra_guard.data.near_duplicates import Engine, NearSettings, Signed, duplicates, matches, sign
from libra_guard.errors import UsageError
from libra_guard.io import BadRow, Row, read_rows
from libra_guard.synth.language.evasion import METHODS
from libra_guard.synth.records import Query


class DedupSettings(NearSettings):
    """What counts as a duplicate, and which files the queries must keep away from."""

    against: tuple[Path, ...] = ()
    """Benchmarks and other held-out sets: all that ``io.read_rows`` reads, with the question in ``question``."""


class Rejected(NamedTuple):
    """A query that goes, and why."""

    row: Query
    reason: str


class Contamination(NamedTuple):
    """How near the queries are to one held-out file."""

    file: str
    rows: int
    """Its questions that the queries were compared with."""
    unread: int
    """Its rows without a question that can be read."""
    hits: int
    """Queries that are near one of its questions."""


class Deduplicated(NamedTuple):
    """Each query stands in ``kept`` or in ``rejected``, in the order given."""

    kept: list[Query]
    rejected: list[Rejected]
    contamination: list[Contamination]
    """One for each held-out file, in the order given."""


def dedup(
    rows: Sequence[Query],
    settings: DedupSettings,
    held_out: Sequence[str | Path] = (),
    *,
    engine: Engine = Engine.LOCAL,
) -> Deduplicated:
    """Keeps the queries that repeat neither a held-out question nor a query kept before them.

    A query that was disguised by rule (``evasion.METHODS``) shares the fate of the one that it was made of: compared,
    it would be a duplicate of that one wherever the disguise is seen through, and a guard is to learn it.

    What was made of a query that a held-out file asks goes with it, in whatever words. What was made of a
    near-duplicate and is none itself stays, and gets the ``root_question`` of what that one repeats:
    the two families ask nearly the same, so that they must not stand on two sides of the split.

    Args:
        rows: In the order in which they have precedence.
        settings: What counts as a duplicate.
        held_out: Files besides those of the settings.
        engine: Where signatures are made; the result is the same.

    Raises:
        UsageError: There is no such file, or no row of it has a question.
        MissingExtraError: A library is not installed.
    """
    every, rows = rows, _compared(rows)
    signed = sign([row.question for row in rows], settings, engine)
    reasons = [""] * len(rows)
    contamination = [
        _compare(signed, path, engine, reasons) for path in dict.fromkeys(map(str, (*settings.against, *held_out)))
    ]
    _with_children(rows, reasons)
    left = np.flatnonzero([not reason for reason in reasons])
    remaining = signed.take(left)
    found = duplicates(remaining)
    repeats: dict[str, str] = {}
    for i in np.flatnonzero(found.of >= 0).tolist():
        other = int(found.of[i])
        exact = remaining.keys[i] == remaining.keys[other]
        name = rows[left[other]].id
        how = "exact duplicate of {}" if exact else "near-duplicate of {}, Jaccard {:.2f}"
        reasons[left[i]] = how.format(name, found.similarity[i])
        repeats[rows[left[i]].id] = name
    pairs = _with_disguised(every, dict(zip((row.id for row in rows), reasons, strict=True)))
    return Deduplicated(
        _on_one_side([row for row, reason in pairs if not reason], every, repeats),
        [Rejected(row, reason) for row, reason in pairs if reason],
        contamination,
    )


def _with_children(rows: Sequence[Query], reasons: list[str]) -> None:
    """Notes in ``reasons`` what was made of queries that are held out; parents stand before their children."""
    place = {row.id: i for i, row in enumerate(rows)}
    for i, row in enumerate(rows):
        if not reasons[i] and row.parent in place and reasons[place[row.parent]]:
            reasons[i] = f"made of {row.parent}, which is held out"


def _on_one_side(kept: Sequence[Query], rows: Sequence[Query], repeats: Mapping[str, str]) -> list[Query]:
    """The queries that stay, with the ``root_question`` of those that came into another family.

    Args:
        kept: Those that stay.
        rows: All.
        repeats: Id of a query that goes → id of the one that it repeats.
    """
    known = {row.id: row for row in rows}
    found = []
    for row in kept:
        path: list[str] = []
        name = row.id
        while name in known and name not in path:
            path.append(name)
            name = repeats.get(name) or known[name].parent
        # Families that repeat each other have no root: any of them will do that is the same for all.
        root = min(path[path.index(name) :]) if name in path else path[-1]
        moved = any(one in repeats for one in path)
        found.append(row.model_copy(update={"root_question": known[root].question}) if moved else row)
    return found


def _disguised(row: Query) -> bool:
    return bool(row.parent and row.made_by) and row.made_by[-1].method in METHODS


def _compared(rows: Sequence[Query]) -> list[Query]:
    """The queries that are compared, each id once: of a disguised one without its parent among them it is itself."""
    there = {row.id for row in rows if not _disguised(row)}
    found: dict[str, Query] = {}
    for row in rows:
        if not _disguised(row) or row.parent not in there:
            found.setdefault(row.id, row)
    return list(found.values())


def _with_disguised(rows: Sequence[Query], reasons: dict[str, str]) -> list[tuple[Query, str]]:
    """All queries with the reason why they go, empty where they stay.

    Args:
        rows: In the order given.
        reasons: Of those that were compared, by id.
    """
    found = []
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            reason = f"exact duplicate of {row.id}"
        elif row.id in reasons:
            reason = reasons[row.id]
        else:
            reason = f"made of {row.parent}, which goes" if reasons[row.parent] else ""
        seen.add(row.id)
        found.append((row, reason))
    return found


def _compare(signed: Signed, path: str, engine: Engine, reasons: list[str]) -> Contamination:
    """Notes in ``reasons``, after what other files said, which queries are near a question of a file."""
    read = list(read_rows(path))
    questions = [(row, question) for row in read if (question := _question(row))]
    if not questions:
        raise UsageError(f"{path}: no row has a question to compare with; the field is 'question'")
    found = matches(signed, sign([question for _, question in questions], signed.settings, engine))
    hits = np.flatnonzero(found.of >= 0).tolist()
    for i in hits:
        row, _ = questions[found.of[i]]
        reason = f"near {row.file}:{row.line} (held out), Jaccard {found.similarity[i]:.2f}"
        reasons[i] = "; ".join(filter(None, (reasons[i], reason)))
    return Contamination(path, len(questions), len(read) - len(questions), len(hits))


def _question(row: Row | BadRow) -> str:
    if isinstance(row, BadRow):
        return ""
    value = row.data.get("question")
    return own_text(value, row.data.get("response")) if isinstance(value, str) else ""
