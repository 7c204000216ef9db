"""What comes out: the samples of both stages, split by question, and the data card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from libra_guard.data.base import SPLITS, split_of
from libra_guard.io import atomic, dumps
from libra_guard.records import Sample
from libra_guard.synth.records import Judged, Query
from libra_guard.synth.report import card
from libra_guard.synth.seats.budget import Usage
from libra_guard.synth.steps.split import Placed, Stage, place
from libra_guard.synth.work import Done, Work

STEP = "split"
STAGES: tuple[Stage, ...] = ("stage1", "stage2")
LEFT_OUT = "left_out.jsonl"


class Placement(BaseModel):
    """Where a sample went."""

    id: str
    stage: Stage | None
    split: str
    reason: str = ""


def release(work: Work, pairs: Sequence[Judged], queries: Sequence[Query], out: Path) -> Done:
    """Writes ``data/``: ``stage1`` and ``stage2`` with a file for each split, what is left out, the card.

    Args:
        work: The run.
        pairs: The judged pairs.
        queries: All queries, for the roots of those that were made of others.
        out: The run's folder.
    """
    placed = list(place(pairs, queries, work.config.split))
    folder = out / "data"
    for stage in STAGES:
        for split in SPLITS:
            _write(
                folder / stage / f"{split}.jsonl", (p.sample for p in placed if p.stage == stage and _split(p) == split)
            )
    left = [{**one.sample.model_dump(mode="json"), "left_out": one.reason} for one in placed if one.stage is None]
    _write(folder / LEFT_OUT, left)
    rows = [Placement(id=str(p.sample.id), stage=p.stage, split=_split(p), reason=p.reason) for p in placed]
    card.write_card(folder, _figures(work, placed, out))
    return Done(rows, (), {stage: sum(row.stage == stage for row in rows) for stage in STAGES})


def _figures(work: Work, placed: Sequence[Placed], out: Path) -> card.CardFigures:
    rejects: dict[str, Counter[str]] = {}
    usage: dict[str, Usage] = {}
    for record in _records(out):
        rejects.setdefault(record["step"], Counter()).update(record["reasons"])
        for model, spent in record["usage"].items():
            usage[model] = usage.get(model, Usage()) + Usage(**spent)
    first, second = ([one.sample for one in placed if one.stage == stage] for stage in STAGES)
    return card.figures(
        first,
        second,
        [card.LeftOut(one.sample, one.reason) for one in placed if one.stage is None],
        rejects,
        usage,
        work.config,
    )


def _records(out: Path) -> Iterator[dict[str, Any]]:
    """What the steps before wrote down, those of all shards."""
    for path in sorted((out / "steps").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["step"] != STEP:
            yield record


def _split(placed: Placed) -> str:
    return split_of(str((placed.sample.model_extra or {})["root_question"]))


def _write(path: Path, rows: Iterable[Sample | dict[str, Any]]) -> None:
    """A file of the rows; none where there are none, for a reader of data sets takes an empty file for a broken one."""
    lines = [dumps(row.model_dump(mode="json") if isinstance(row, Sample) else row) + "\n" for row in rows]
    if not lines:
        path.unlink(missing_ok=True)
        return
    with atomic(path) as stream:
        stream.writelines(lines)
