"""Takes away what stands there twice, and what a benchmark or another held-out file asks already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libra_guard.data.base import untranslated
from libra_guard.data.near_duplicates import Engine, NearSettings, Signed, duplicates, sign
from libra_guard.synth.contamination import Contamination, compare
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

    A query that was disguised by rule (``evasion.METHODS``) is compared with held-out questions alone. Among the
    others it would be a duplicate of the one that it was made of wherever the disguise is seen through, and a guard is
    to learn it: there it shares the fate of that one.

    A query that was translated is also compared with held-out questions as it was before.

    What was made of a query that a held-out file asks goes with it, in whatever words; and where that file asks it in
    disguise, the query itself. What was made of a near-duplicate and is none itself stays, and gets the
    ``root_question`` of what that one repeats: the two families ask nearly the same, so that they must not stand on two
    sides of the split.

    Args:
        rows: In the order in which they have precedence; parents before what was made of them.
        settings: What counts as a duplicate.
        held_out: Files besides those of the settings.
        engine: Where signatures are made; the result is the same.

    Raises:
        UsageError: There is no such file, or no row of it has a question.
        MissingExtraError: A library is not installed.
    """
    known: dict[str, Query] = {}
    for row in rows:
        known.setdefault(row.id, row)
    different = list(known.values())
    signed, near, contamination = _apart(different, settings, held_out, engine)
    disguised = _disguised(different)
    reasons = _with_families(different, disguised, near)
    left = [i for i, row in enumerate(different) if row.id not in reasons and row.id not in disguised]
    # Of a million, signatures and rows are what takes the memory.
    signed = signed.take(np.array(left, np.int64))
    repeats, told = _repeats([different[i] for i in left], signed)
    reasons |= told
    for name, parent in disguised.items():
        if parent in reasons:
            reasons.setdefault(name, f"made of {parent}, which goes")
    kept, rejected = [], []
    seen: set[str] = set()
    for row in rows:
        reason = f"exact duplicate of {row.id}" if row.id in seen else reasons.get(row.id)
        seen.add(row.id)
        if reason:
            rejected.append(Rejected(row, reason))
        else:
            kept.append(row)
    return Deduplicated(_on_one_side(kept, rows, repeats), rejected, contamination)


def _apart(
    rows: Sequence[Query], settings: DedupSettings, held_out: Sequence[str | Path], engine: Engine
) -> tuple[Signed, dict[str, str], list[Contamination]]:
    """The queries' questions made ready to be compared; which stand in a held-out file; and how near each file is."""
    translated = [i for i, row in enumerate(rows) if row.original]
    texts = [row.question for row in rows] + [untranslated(rows[i].original) for i in translated]
    signed, of = sign(texts, settings, engine), [*range(len(rows)), *translated]
    near: dict[str, list[str]] = {}
    contamination = []
    for path in dict.fromkeys(map(str, (*settings.against, *held_out))):
        found, about = compare(signed, of, path, engine)
        contamination.append(about)
        for i in sorted(found):
            near.setdefault(rows[i].id, []).append(found[i])
    return signed, {name: "; ".join(told) for name, told in near.items()}, contamination


def _disguised(rows: Sequence[Query]) -> dict[str, str]:
    """Id of a query that was disguised by rule → id of what it was made of, where that is there and none itself."""
    by_rule = {row.id for row in rows if row.parent and row.made_by and row.made_by[-1].method in METHODS}
    plain = {row.id for row in rows} - by_rule
    return {row.id: row.parent for row in rows if row.id in by_rule and row.parent in plain}


def _with_families(rows: Sequence[Query], disguised: Mapping[str, str], near: Mapping[str, str]) -> dict[str, str]:
    """Why queries go that a held-out file asks: also what it asks in disguise, and what was made of all these."""
    reasons = dict(near)
    for name in near:
        if name in disguised:
            reasons.setdefault(disguised[name], f"asked in disguise by {name}, which is held out")
    for row in rows:
        if row.parent in reasons:
            reasons.setdefault(row.id, f"made of {row.parent}, which is held out")
    return reasons


def _repeats(rows: Sequence[Query], signed: Signed) -> tuple[dict[str, str], dict[str, str]]:
    """Id of a query that repeats one before it → id of that one; and → the reason.

    Args:
        rows: The queries.
        signed: Their questions.
    """
    found = duplicates(signed)
    repeats: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for i in np.flatnonzero(found.of >= 0).tolist():
        other = int(found.of[i])
        name, first = rows[i].id, rows[other].id
        exact = signed.keys[i] == signed.keys[other]
        how = "exact duplicate of {}" if exact else "near-duplicate of {}, Jaccard {:.2f}"
        repeats[name], reasons[name] = first, how.format(first, found.similarity[i])
    return repeats, reasons


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
