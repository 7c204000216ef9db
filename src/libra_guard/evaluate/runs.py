"""What stands beside predictions of the run that wrote them: where rows keep their texts, and what was judged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard.errors import UsageError
from libra_guard.evaluate.folder import is_record
from libra_guard.predict.record import judged_otherwise
from libra_guard.predict.redaction import redacted
from libra_guard.predict.rows import Fields
from libra_guard.predict.shards import RECORD, Shard, present
from libra_guard.predict.taken_up import rows_taken_up
from libra_guard.records import Target

_OUTPUT = re.compile(r"(\d+)-of-(\d+)\.jsonl")


class Run(NamedTuple):
    """Where predictions are, and what stands beside them of how they came to be."""

    path: Path
    records: dict[str, Any]
    """File name → content."""
    fields: Fields
    """Where its rows keep their texts, and what was judged; as usual where nothing is told."""
    mixed: tuple[str, ...] = ()
    """Shards that were judged otherwise than the first of the folder, and rows that nobody knows who judged, in words:
    the scores are not of one guard."""

    @property
    def parts(self) -> list[dict[str, Any]]:
        """What is told of each shard, whole; of a run that was not cut one record, of none nothing."""
        told = [record for record in self.records.values() if isinstance(record, dict)]
        parts = (part for record in told for part in [*_shards(record).values()] or [record])
        return [part for part in parts if isinstance(part, dict)]

    @property
    def guard(self) -> dict[str, Any] | None:
        """The provenance of the guard that judged, as the first shard has it; None where nothing tells it."""
        return next((part["guard"] for part in self.parts if isinstance(part.get("guard"), dict)), None)


def read_run(path: Path) -> Run:
    """Reads what is told of a folder of predictions, or of one file in it.

    Raises:
        UsageError: There is no such file or folder.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    records = _records(path)
    told = [fields for record in records.values() for fields in _told_fields(record)]
    # The shards of a folder may differ; judged questions in any of them are enough to ask whose the label is.
    asked = any(fields.target is Target.PROMPT for fields in told)
    fields = told[0] if told else Fields()
    fields = replace(fields, target=Target.PROMPT if asked else Target.RESPONSE)
    return Run(path, records, fields, (*_mixed(path, records.get(RECORD)), *_taken_up(records)))


def _mixed(path: Path, joined: Any) -> Iterator[str]:
    """What keeps the shards of a folder from being one run."""
    # A shard that was copied here from another machine has not come into run.json.
    shards = {str(shard): _read(path / shard.own(RECORD)) for shard in present(path)} or _shards(joined)
    told = {name: record for name, record in shards.items() if isinstance(record, dict) and "guard" in record}
    yield from (f"shard {name}: nothing tells what judged it" for name in shards if name not in told)
    first = next(iter(told), "")
    for name, record in told.items():
        if found := judged_otherwise(told[first], record):
            yield f"shard {name} is of another run than {first} ({', '.join(found)}): the scores are of no one guard"


def _taken_up(records: dict[str, Any]) -> Iterator[str]:
    """Which rows the runs did not judge themselves."""
    for record in records.values():
        for name, part in _shards(record).items() or [("", record)]:
            if rows := rows_taken_up(part) if isinstance(part, dict) else 0:
                where = f"of shard {name} " if name else ""
                yield f"the first {rows} rows {where}were there before the run: nothing tells what judged them"


def _shards(joined: Any) -> dict[str, Any]:
    """The shards that a ``run.json`` tells of, whole."""
    shards = joined.get("shards") if isinstance(joined, dict) else None
    told = shards.items() if isinstance(shards, dict) else ()
    return {name: {**joined, **own} if isinstance(own, dict) else own for name, own in told}


def _told_fields(record: Any) -> Iterator[Fields]:
    """The ``fields`` of a ``run.json`` and of its shards, whatever else it holds."""
    if not isinstance(record, dict):
        return
    told, usual = record.get("fields"), Fields()
    if isinstance(told, dict):
        question, response, messages = (told.get(name) for name in ("question", "response", "messages"))
        yield Fields(
            question if isinstance(question, str) else usual.question,
            response if isinstance(response, str) else usual.response,
            messages if isinstance(messages, str) else None,
            Target.PROMPT if told.get("target") == Target.PROMPT else Target.RESPONSE,
        )
    shards = record.get("shards")
    for shard in shards.values() if isinstance(shards, dict) else ():
        yield from _told_fields(shard)


def check_targets(first: Run, second: Run | None, label_field: str | None) -> None:
    """Sees to it that verdicts on questions are not scored by the answers' labels.

    Raises:
        UsageError: They would be, or one run judged questions and the other answers.
    """
    runs = [first] if second is None else [first, second]
    if len({run.fields.target for run in runs}) > 1:
        raise UsageError("one of the two runs judged the questions, the other the answers: they cannot be compared")
    if first.fields.target is Target.PROMPT and label_field is None:
        raise UsageError(
            f"{first.path}: the questions were judged (--judge prompt), and 'label' is that of the answers; name the "
            "field with the questions' labels: --label-field NAME"
        )


def _records(predictions: Path) -> dict[str, Any]:
    """The provenance that the predictions came with: file name → content."""
    return {file.name: _read(file) for file in _record_files(predictions)}


def _read(file: Path) -> Any:
    try:
        # A NaN is no JSON, and would spoil the report's.
        return redacted(json.loads(file.read_bytes(), parse_constant=lambda _: None))
    except (OSError, ValueError, RecursionError) as error:
        return {"unreadable": str(error)}


def _record_files(predictions: Path) -> list[Path]:
    if name := _OUTPUT.fullmatch(predictions.name):
        own = predictions.with_name(Shard(int(name[1]), int(name[2])).own(RECORD))
        return [own] if own.is_file() else []
    # Of a sharded run, run.json tells it all once the first shard has ended.
    whole = predictions / RECORD
    if whole.is_file() and is_record(whole):
        return [whole]
    return [file for file in sorted(predictions.glob("run*.json")) if is_record(file)]
