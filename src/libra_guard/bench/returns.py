"""What came back of a round: kept as it came under ``returned/``, read together into ``annotations.jsonl``."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libra_guard.bench.collect import Annotation, Fault, answered, read_annotations
from libra_guard.bench.reading import XLSX
from libra_guard.bench.rounds import ADJUDICATOR, Round
from libra_guard.bench.rows import as_lines
from libra_guard.errors import UsageError
from libra_guard.io import BadRow, bytes_hash, list_files, read_rows, write_atomic

ANNOTATIONS = "annotations.jsonl"
FAULTS = "faults.jsonl"
_RETURNED = "returned"
_OLD = "old"
"""Folder of what was replaced: it may be the only copy of somebody's work."""
_FEW = 10
"""On fewer rows, two people may well come to the same labels in the same order."""


def keep_files(one: Round, files: Mapping[str, Path]) -> None:
    """Keeps what annotators sent back, each in place of what came before.

    Args:
        one: The round.
        files: Annotator → file.

    Raises:
        UsageError: A file is missing or of an unknown kind, or is also somebody else's.
    """
    whose: dict[str, str] = {}
    kept = {name: found[0] for name in one.annotators if (found := _of(one.folder / _RETURNED, name))}
    for name, file in (kept | dict(files)).items():
        _check(file)
        other = whose.setdefault(bytes_hash(file.read_bytes()), name)
        if other != name:
            raise UsageError(f"{file}: the same file came back from {other} and {name}; whose is it?")
    for name, file in files.items():
        keep_file(one, name, file)


def keep_file(one: Round, name: str, file: Path) -> Path:
    """Keeps what an annotator or the adjudicator sent back, in place of what came before.

    Returns:
        Where it is kept.

    Raises:
        UsageError: There is no such file, or it is of an unknown kind.
    """
    _check(file)
    folder = one.folder / _RETURNED
    kept = folder / f"{name}{''.join(file.suffixes[-2:] if file.suffix == '.gz' else file.suffixes[-1:]).lower()}"
    if not (kept.exists() and kept.samefile(file)):
        folder.mkdir(exist_ok=True)
        partial = kept.with_name(f".{kept.name}.tmp")
        shutil.copyfile(file, partial)
        _put(partial, kept)
    return kept


def keep_export(one: Round, annotator: str, tasks: Iterable[Any], *, replace: bool = False) -> str:
    """Keeps a project's export, one task a line, unless it has fewer answers than what is kept already.

    Args:
        one: The round.
        annotator: Whose project it is.
        tasks: The export.
        replace: Keep it all the same.

    Returns:
        Why it was not kept; empty where it was.
    """
    kept = one.folder / _RETURNED / f"{annotator}.jsonl"
    partial = kept.with_name(f".{kept.name}")
    write_atomic(partial, as_lines(tasks))
    for before in _of(kept.parent, annotator):
        new, old = (len(answered(one.rows, str(file))) for file in (partial, before))
        if new < old and not replace:
            partial.unlink()
            return (
                f"{annotator}: Label Studio has {new} answers, {before} has {old} and was kept; --replace takes the new"
            )
    _put(partial, kept)
    return ""


def collect(one: Round) -> tuple[list[Annotation], list[Fault]]:
    """Reads all that came back, and writes ``annotations.jsonl`` and ``faults.jsonl``.

    Returns:
        The annotations, annotator by annotator in the order of the rows; and everything that is wrong.
    """
    faults, said, orders = list[Fault](), dict[str, list[Annotation]](), dict[str, list[str]]()
    for annotator in one.annotators:
        files = _of(one.folder / _RETURNED, annotator)
        if not files:
            faults.append(Fault(annotator, str(one.folder / _RETURNED), 0, "", "nothing came back"))
            continue
        said[annotator], wrong = read_annotations(one.rows, annotator, str(files[0]))
        orders[annotator] = answered(one.rows, str(files[0]))
        faults += wrong
        others = (other for other in orders if other != annotator)
        if twin := next((other for other in others if _twins(said, orders, annotator, other)), ""):
            reason = f"all labels and the order of the rows are those of {twin}: did one person do both?"
            faults.append(Fault(annotator, str(files[0]), 0, "", reason))
    annotations = [annotation for own in said.values() for annotation in own]
    write_atomic(one.folder / ANNOTATIONS, as_lines(a._asdict() for a in annotations))
    write_atomic(one.folder / FAULTS, as_lines(f._asdict() for f in faults))
    return annotations, faults


def read_collected(one: Round, name: str = ANNOTATIONS) -> list[Annotation]:
    """The annotations that ``collect`` wrote.

    Args:
        one: The round.
        name: Of the file.

    Raises:
        UsageError: It has not been called yet, or the file holds something else.
    """
    path = one.folder / name
    if not path.exists():
        raise UsageError(f"{path}: not there yet; `libra bench collect` writes it")
    known, people, found = {row.id for row in one.rows}, {*one.annotators, ADJUDICATOR}, list[Annotation]()
    for row in read_rows(path):
        data = {} if isinstance(row, BadRow) else row.data
        if set(data) != set(Annotation._fields) or data["row"] not in known or data["annotator"] not in people:
            raise UsageError(f"{path}:{row.line}: no annotation of this round")
        found.append(Annotation(**data))
    return found


def given_files(pairs: Sequence[str], annotators: Sequence[str]) -> dict[str, Path]:
    """Annotator → file, of arguments ``NAME=FILE``.

    Raises:
        UsageError: One is of another form, names nobody of the round, or stands there twice.
    """
    found: dict[str, Path] = {}
    for pair in pairs:
        name, sign, file = pair.partition("=")
        if not sign or not file:
            raise UsageError(f"{pair}: write NAME=FILE, the annotator's name and what came back")
        if name not in annotators:
            raise UsageError(f"{pair}: the round's annotators are {', '.join(annotators)}")
        if name in found:
            raise UsageError(f"{pair}: {name} has {found[name]} already")
        found[name] = Path(file)
    return found


def _check(file: Path) -> None:
    known = file.suffix.lower() == XLSX and file.is_file()
    if not known and (len(list_files(file)) != 1 or file.is_dir()):
        raise UsageError(f"{file}: one file is needed, not a folder")


def _of(folder: Path, name: str) -> list[Path]:
    return [file for file in sorted(folder.glob("*")) if file.is_file() and file.name.partition(".")[0] == name]


def _put(partial: Path, kept: Path) -> None:
    """Puts a new file in place; what came of the same person before, in whatever form, goes to ``old/``."""
    name = kept.name.partition(".")[0]
    for file in _of(kept.parent, name):
        if file == kept and file.read_bytes() == partial.read_bytes():
            continue
        old = kept.parent / _OLD
        old.mkdir(exist_ok=True)
        number = next(n for n in itertools.count(1) if not list(old.glob(f"{name}.{n}.*")))
        file.rename(old / f"{name}.{number}.{file.name.partition('.')[2]}")
    partial.replace(kept)


def _twins(
    said: Mapping[str, Sequence[Annotation]], orders: Mapping[str, Sequence[str]], first: str, second: str
) -> bool:
    """Whether what two people said could be one's, copied: each was given the rows in an order of their own."""
    labels = ([(annotation.row, annotation.label) for annotation in said[name]] for name in (first, second))
    return len(orders[first]) >= _FEW and orders[first] == orders[second] and next(labels) == next(labels)
