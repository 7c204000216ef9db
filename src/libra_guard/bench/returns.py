"""What came back of a round: kept as it came under ``returned/``, read together into ``annotations.jsonl``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from libra_guard.bench.collect import Annotation, Fault, read_annotations
from libra_guard.bench.labels import ADJUDICATOR
from libra_guard.bench.rounds import Round
from libra_guard.bench.rows import as_lines
from libra_guard.errors import UsageError
from libra_guard.io import BadRow, list_files, read_rows, write_atomic

ANNOTATIONS = "annotations.jsonl"
FAULTS = "faults.jsonl"
_RETURNED = "returned"


def keep_file(one: Round, annotator: str, file: Path) -> None:
    """Keeps what an annotator sent back, in place of what came before.

    Raises:
        UsageError: There is no such file, or it is of an unknown kind.
    """
    if len(list_files(file)) != 1 or file.is_dir():
        raise UsageError(f"{file}: one file is needed, not a folder")
    folder = one.folder / _RETURNED
    folder.mkdir(exist_ok=True)
    kept = folder / f"{annotator}{''.join(file.suffixes[-2:] if file.suffix == '.gz' else file.suffixes[-1:]).lower()}"
    if kept.exists() and kept.samefile(file):
        return
    partial = kept.with_name(f".{kept.name}.tmp")
    shutil.copyfile(file, partial)
    partial.replace(kept)
    _forget_others(kept)


def keep_export(one: Round, annotator: str, tasks: Iterable[Any]) -> None:
    """Keeps a project's export, one task a line."""
    kept = one.folder / _RETURNED / f"{annotator}.jsonl"
    write_atomic(kept, as_lines(tasks))
    _forget_others(kept)


def collect(one: Round) -> tuple[list[Annotation], list[Fault]]:
    """Reads all that came back, and writes ``annotations.jsonl`` and ``faults.jsonl``.

    Returns:
        The annotations, annotator by annotator in the order of the rows; and everything that is wrong.
    """
    annotations, faults = list[Annotation](), list[Fault]()
    for annotator in one.annotators:
        files = _of(one.folder / _RETURNED, annotator)
        if not files:
            faults.append(Fault(annotator, str(one.folder / _RETURNED), 0, "", "nothing came back"))
            continue
        found, wrong = read_annotations(one.rows, annotator, str(files[0]))
        annotations += found
        faults += wrong
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


def _of(folder: Path, annotator: str) -> list[Path]:
    return [file for file in sorted(folder.glob("*")) if file.name.partition(".")[0] == annotator]


def _forget_others(kept: Path) -> None:
    """What came of the same annotator before, in another form."""
    for file in _of(kept.parent, kept.name.partition(".")[0]):
        if file != kept:
            file.unlink()


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
