"""Takes away what stands there twice, and what a benchmark or another held-out file asks already."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from libra_guard.data.base import untranslated
from libra_guard.data.near_duplicates import Engine, NearSettings, Signed, duplicates, sign
from libra_guard.synth.again import Again
from libra_guard.synth.contamination import Contamination, compare
from libra_guard.synth.language.evasion import METHODS
from libra_guard.synth.progress import Advance, counted
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
    """Each query stands in ``kept`` or in ``rejected``, in the order given. Both go through the rows anew each time."""

    kept: Collection[Query]
    rejected: Collection[Rejected]
    contamination: list[Contamination]
    """One for each held-out file, in the order given."""


class _Kin(NamedTuple):
    """What is held of a query: what it was made of, and how."""

    parent: str
    by_rule: bool
    """Whether it was disguised by rule."""


@dataclass
class _Read:
    """What is held of all the rows."""

    different: dict[str, _Kin] = field(default_factory=dict)
    """By id, in order."""
    rows: int = 0
    """With those whose id stood there before."""
    of: array[int] = field(default_factory=lambda: array("q"))
    """For each text the number of its query; a query's question comes before what it was translated from."""

    def texts(self, rows: Iterable[Query], advance: Callable[[int], None]) -> Iterator[str]:
        """What is asked, in one wording or two; notes the rest on the way."""
        for row in counted(rows, advance):
            self.rows += 1
            if row.id in self.different:
                continue
            number, method = len(self.different), row.made_by[-1].method if row.parent and row.made_by else ""
            self.different[row.id] = _Kin(row.parent, method in METHODS)
            for text in (row.question, *([untranslated(row.original)] if row.original else ())):
                self.of.append(number)
                yield text


def dedup(
    rows: Collection[Query],
    settings: DedupSettings,
    held_out: Sequence[str | Path] = (),
    *,
    engine: Engine = Engine.LOCAL,
    advance: Advance = lambda _: None,
    compared: Advance = lambda _: None,
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
        rows: In the order in which they have precedence; parents before what was made of them. Gone through three
            times or more, and not held: of each only its id and kinship, and with the local engine what it is compared
            by.
        settings: What counts as a duplicate.
        held_out: Files besides those of the settings.
        engine: Where texts are signed and compared; the result is the same.
        advance: Told how many more rows were read, the first time that they are.
        compared: Told of each of ``settings.bands`` in which they were compared with each other.

    Raises:
        UsageError: There is no such file, or no row of it has a question.
        MissingExtraError: A library is not installed.
    """
    read = _Read()
    signed = sign(read.texts(rows, advance), settings, engine)
    names, of = [*read.different], np.frombuffer(read.of, np.int64)
    near, contamination = _held_out(signed, names, of, settings, held_out)
    disguised = _disguised(read.different)
    reasons = _with_families(read.different, disguised, near)
    stays = np.array([name not in reasons and name not in disguised for name in names], bool)
    questions_at = np.flatnonzero(np.diff(of, prepend=-1) > 0)
    repeats, told = _repeats([names[i] for i in np.flatnonzero(stays)], signed.take(questions_at[stays]), compared)
    reasons |= told
    for name, parent in disguised.items():
        if parent in reasons:
            reasons.setdefault(name, f"made of {parent}, which goes")
    roots = _roots(read.different, repeats, reasons)
    wanted = set(roots.values())
    questions = {row.id: row.question for row in rows if row.id in wanted} if wanted else {}

    def kept() -> Iterator[Query]:
        for row, reason in _told(rows, reasons):
            if not reason:
                root = roots.get(row.id)
                yield row.model_copy(update={"root_question": questions.get(root, "")}) if root else row

    def rejected() -> Iterator[Rejected]:
        for row, reason in _told(rows, reasons):
            if reason:
                yield Rejected(row, reason)

    stay = len(names) - len(reasons)
    return Deduplicated(Again(kept, stay), Again(rejected, read.rows - stay), contamination)


def _told(rows: Iterable[Query], reasons: Mapping[str, str]) -> Iterator[tuple[Query, str]]:
    """Each row, and why it goes, if it does."""
    seen: set[str] = set()
    for row in rows:
        yield row, f"exact duplicate of {row.id}" if row.id in seen else reasons.get(row.id, "")
        seen.add(row.id)


def _held_out(
    signed: Signed, names: Sequence[str], of: NDArray[np.int64], settings: DedupSettings, held_out: Sequence[str | Path]
) -> tuple[dict[str, str], list[Contamination]]:
    """Which queries stand in a held-out file, and where; and how near each file is."""
    near: dict[str, list[str]] = {}
    contamination = []
    for path in dict.fromkeys(map(str, (*settings.against, *held_out))):
        found, about = compare(signed, of, path)
        contamination.append(about)
        for i in sorted(found):
            near.setdefault(names[i], []).append(found[i])
    return {name: "; ".join(told) for name, told in near.items()}, contamination


def _disguised(kin: Mapping[str, _Kin]) -> dict[str, str]:
    """Id of a query that was disguised by rule → id of what it was made of, where that is there and none itself."""
    return {
        name: one.parent
        for name, one in kin.items()
        if one.by_rule and one.parent in kin and not kin[one.parent].by_rule
    }


def _with_families(kin: Mapping[str, _Kin], disguised: Mapping[str, str], near: Mapping[str, str]) -> dict[str, str]:
    """Why queries go that a held-out file asks: also what it asks in disguise, and what was made of all these."""
    reasons = dict(near)
    for name in near:
        if name in disguised:
            reasons.setdefault(disguised[name], f"asked in disguise by {name}, which is held out")
    for name, one in kin.items():
        if one.parent in reasons:
            reasons.setdefault(name, f"made of {one.parent}, which is held out")
    return reasons


def _repeats(names: Sequence[str], signed: Signed, advance: Advance) -> tuple[dict[str, str], dict[str, str]]:
    """Id of a query that repeats one before it → id of that one; and → the reason.

    Args:
        names: Ids of the queries.
        signed: Their questions.
        advance: See ``duplicates``.
    """
    found = duplicates(signed, advance)
    repeats: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for i in np.flatnonzero(found.of >= 0).tolist():
        name, first = names[i], names[int(found.of[i])]
        how = "exact duplicate of {}" if found.exact[i] else "near-duplicate of {}, Jaccard {:.2f}"
        repeats[name], reasons[name] = first, how.format(first, found.similarity[i])
    return repeats, reasons


def _roots(kin: Mapping[str, _Kin], repeats: Mapping[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    """Id of a query that stays and came into another family → id of that family's root.

    Args:
        kin: All queries.
        repeats: Id of a query that goes → id of the one that it repeats.
        reasons: Id of a query that goes → why.
    """
    found = {}
    for start in kin.keys() - reasons.keys() if repeats else ():
        path: list[str] = []
        name = start
        while name in kin and name not in path:
            path.append(name)
            name = repeats.get(name) or kin[name].parent
        if any(one in repeats for one in path):
            # Families that repeat each other have no root: any of them will do that is the same for all.
            found[start] = min(path[path.index(name) :]) if name in path else path[-1]
    return found
