"""What several judges said of each row: in the rows themselves, or in folders that ``libra infer`` wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from libra_guard.bench.rows import BenchRow
from libra_guard.errors import UsageError
from libra_guard.evaluate.predictions import Key, Labelled, join, load_predictions
from libra_guard.io import BadRow, dumps
from libra_guard.records import Vote, content_id, differ

_VOTES: TypeAdapter[tuple[Vote, ...]] = TypeAdapter(tuple[Vote, ...])


def own_votes(data: str, records: Sequence[Mapping[str, Any]], rejects: list[BadRow]) -> list[tuple[Vote, ...] | None]:
    """The votes in rows of the data pipeline; none where a row has none.

    Args:
        data: Where they were read.
        records: As they stand there.
        rejects: Those whose votes are no votes are added; None stands in their place.

    Raises:
        UsageError: Not one row has any.
    """
    if records and not any(record.get("votes") for record in records):
        raise UsageError(f"{data}: no row carries votes: give --judge, two or more")
    found = list[tuple[Vote, ...] | None]()
    for record in records:
        try:
            found.append(_VOTES.validate_python(record.get("votes") or ()))
        except ValidationError as error:
            wrong = error.errors()[0]
            reason = f"votes.{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
            rejects.append(BadRow(data, 0, reason, dumps(record)))
            found.append(None)
    return found


def folder_votes(rows: Sequence[BenchRow], folders: Sequence[Path]) -> tuple[list[list[Vote]], list[str]]:
    """The votes that judges gave in runs of ``libra infer`` over the rows, joined by id.

    A prediction of a row's id but of other texts is no vote on it.

    Args:
        rows: That were judged.
        folders: Or files of predictions; each is one judge, called by its name.

    Returns:
        The votes of each row, in the order of the folders; and what was odd, a line each.

    Raises:
        UsageError: Two folders have one name, or one is missing.
        DataError: A folder holds no predictions.
    """
    names = [folder.resolve().name for folder in folders]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"two judges are called '{twice[0]}': rename a folder")
    votes: list[list[Vote]] = [[] for _ in rows]
    complaints = list[str]()
    # Nobody has labelled them yet; joining looks at their keys alone.
    keyed = [Labelled(_key(row), row.source, row.category_name, False, number) for number, row in enumerate(rows)]
    for name, folder in zip(names, folders, strict=True):
        predictions, odd = load_predictions(folder)
        joined = join(keyed, predictions)
        for truth, prediction in joined.rows:
            if prediction.key.content in (None, truth.key.content):
                votes[truth.number].append(Vote(judge=name, label=prediction.label, score=prediction.score))
        for kind, count in (odd.counts + joined.tally.counts).items():
            if kind not in ("missing_labels", "missing_predictions"):
                complaints.append(f"{name}: {count} {kind.replace('_', ' ')}")
    return votes, complaints


def disagree(votes: Sequence[Vote]) -> bool | None:
    """Whether the judges differ: see ``records.differ``."""
    return differ(vote.label for vote in votes)


def _key(row: BenchRow) -> Key:
    return Key(row.id, content_id({"question": row.question, "response": row.response}))
