"""A folder of predictions: which files hold them, and which tell of a run, of its rejects, or of how it scored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard.io import Row, list_files, read_rows
from libra_guard.predict.rows import ADDED

_ANSWERS = re.compile(r"[^.].*\.jsonl?(\.gz)?", re.IGNORECASE)
"""Only these are answers; what begins with a point is another program's."""
_RECORD = re.compile(r"run(-\d+-of-\d+)?\.json")
_RUNS_OWN = re.compile(rf"{_RECORD.pattern}|rejects(-\d+-of-\d+)?\.jsonl")
_TOLD = frozenset({"guard", "data_hash", "fields", "shards", "generations"})
"""What a record tells, any of it where its name says that it is one."""
_RENAMED = frozenset({"guard", "data_hash"})
"""What a record tells that was given another name."""
_REJECT = frozenset({"file", "line", "number", "reason"})
_REPORT = frozenset({"sources", "average", "scenarios", "provenance"})


class Files(NamedTuple):
    """The data files that a path of predictions names."""

    predictions: list[Path]
    others: list[Path]
    """Those in a folder that hold none."""

    @property
    def unexpected(self) -> list[Path]:
        """The others that a run does not itself leave beside its predictions."""
        return [file for file in self.others if not _RUNS_OWN.fullmatch(file.name)]


def find_files(path: Path) -> Files:
    """Every ``.json`` and ``.jsonl`` of a folder, but for records of runs, rejects and reports; a file as it is.

    Raises:
        UsageError: There is no such file or folder, or no data in it.
    """
    files = list_files(path)
    if not path.is_dir():
        return Files(files, [])
    others = [file for file in files if not _ANSWERS.fullmatch(file.name) or _of_no_rows(file)]
    return Files([file for file in files if file not in others], others)


def is_record(file: Path) -> bool:
    """Whether a file is a ``run.json``: by its content, and by its name where the content is damaged."""
    return _records(file, _first(file))


def is_replaceable(file: Path) -> bool:
    """Whether a report may be written over a file beside predictions: it is an earlier one, or nothing that is read."""
    return not _ANSWERS.fullmatch(file.name) or (_first(file) or {}).keys() >= _REPORT


def readable_report(name: str, json: bool) -> bool:
    """Whether a report of this name among predictions is never taken for some: as JSON its content tells.

    Args:
        name: Of the file.
        json: Whether the report is JSON.
    """
    return not _ANSWERS.fullmatch(name) or (json and name.lower().endswith(".json"))


def _of_no_rows(file: Path) -> bool:
    first = _first(file)
    keys = (first or {}).keys()
    return keys.isdisjoint(ADDED) and (_records(file, first) or keys >= _REJECT or keys >= _REPORT)


def _records(file: Path, first: dict[str, Any] | None) -> bool:
    named = _RECORD.fullmatch(file.name) is not None
    if first is None:
        return named
    return bool(first.keys() & _TOLD) if named else first.keys() >= _RENAMED


def _first(file: Path) -> dict[str, Any] | None:
    """A file's first row, which is the whole of a file that holds one object; None where it cannot be read."""
    row = next(read_rows(file), None)
    return row.data if isinstance(row, Row) else None
