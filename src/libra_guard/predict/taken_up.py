"""Predictions that stand there without a record, as the published script leaves them: taken up where they fit the data.

Such a row is the row of the data with the model's text in ``critic``, and no verdict. Nothing tells which model wrote
it: the record of the run that goes on says how many rows of the file are not its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libra_guard.errors import UsageError
from libra_guard.guards.libra_answer import read_answer
from libra_guard.io import dumps
from libra_guard.predict.rows import ADDED, Fields, Job, Reject, conversation, row_key
from libra_guard.records import Verdict

TAKEN_UP = "taken_up"
"""What the record tells of it."""
_ELSEWHERE = "choose another --out, or move it away"


def look_at(path: Path, jobs: Iterator[Job | Reject], fields: Fields) -> dict[str, Any]:
    """Sees to it that a file holds the first rows of the data, and writes nothing.

    A last line without its end is left out, for the run cuts it off.

    Args:
        path: Of the file.
        jobs: The rows of the data that belong there, those that cannot be judged here among them.
        fields: Where a row keeps its texts.

    Returns:
        For the record: how many rows there are, and the hash of their bytes.

    Raises:
        UsageError: It holds something else; the message names the line.
    """
    rows, digest = 0, hashlib.sha256()
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            if why := _misfit(line, next(jobs, None), fields):
                raise UsageError(f"{path}:{rows + 1}: {why}: this file cannot be gone on with; {_ELSEWHERE}")
            rows += 1
            digest.update(line)
    if not rows:
        raise UsageError(f"{path}: no whole row stands in this file; {_ELSEWHERE}")
    return {"rows": rows, "sha256": "sha256:" + digest.hexdigest()}


def rows_taken_up(record: dict[str, Any]) -> int:
    """Of the rows in the file, how many another program wrote, by the run's record: the first of them."""
    told = record.get(TAKEN_UP)
    rows = told.get("rows") if isinstance(told, dict) else None
    return rows if isinstance(rows, int) else 0


def as_verdict(row: dict[str, Any]) -> Verdict:
    """What such a row says, as ``libra evaluate`` reads it."""
    label = read_answer(row.get("critic")).label
    return Verdict(label=label, valid=label is not None)


def key_of(job: Job | Reject) -> str | None:
    """What identifies a row of the data; None where it could not be read."""
    if isinstance(job, Job):
        return job.key
    return None if job.record is None else row_key(job.record)


def _misfit(line: bytes, job: Job | Reject | None, fields: Fields) -> str | None:
    """Why a line is not the row of the data with a model's text; None where it is."""
    if job is None:
        return "the data have no such row"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return "no JSON object"
    if "verdict" in row:
        return "it has a verdict, and the record of the run that wrote it is gone"
    if isinstance(row.get("critic"), list):
        return "it has several texts in 'critic'"
    if not isinstance(row.get("critic"), str):
        return "no text in 'critic'"
    return None if _same(row, job, fields) else f"not row {job.number} of the data"


def _same(row: dict[str, Any], job: Job | Reject, fields: Fields) -> bool:
    """Whether it is the row of the data, by its key and by what is judged of it."""
    rest = {name: value for name, value in row.items() if name not in ADDED}
    if isinstance(job, Reject):
        told = {name: value for name, value in (job.record or {}).items() if name not in ADDED}
        return job.record is not None and rest == json.loads(dumps(told))
    try:
        return row_key(rest) == job.key and conversation(rest, fields) == job.conversation
    except ValueError:
        return False
