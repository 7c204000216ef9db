"""What comes out: the samples of both stages, split by question, and the data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from libra_guard.data.base import SPLITS, split_of
from libra_guard.errors import LibraError
from libra_guard.io import atomic, dumps
from libra_guard.records import Sample
from libra_guard.synth.made_of import written_down
from libra_guard.synth.progress import counted
from libra_guard.synth.records import Judged, Query
from libra_guard.synth.report import card
from libra_guard.synth.seats.budget import Usage
from libra_guard.synth.steps.split import NOBODY, Placed, Stage, place
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

    Raises:
        LibraError: No pair went into a stage.
    """
    placing = place(pairs, [*queries, *_lost(queries)], work.config.split, _sitting(work))
    with work.progress(STEP, len(pairs)) as advance:
        placed = [*counted(placing, advance)]
    folder = out / "data"
    rows = [Placement(id=str(p.sample.id), stage=p.stage, split=_split(p), reason=p.reason) for p in placed]
    groups: dict[tuple[Stage | None, str], list[Sample]] = {}
    for row, one in zip(rows, placed, strict=True):
        groups.setdefault((row.stage, row.split), []).append(one.sample)
    left = [one for one in placed if one.stage is None]
    with work.progress(f"{STEP}: files", len(pairs)) as advance:
        for stage in STAGES:
            for split in SPLITS:
                _write(folder / stage / f"{split}.jsonl", counted(groups.get((stage, split), ()), advance))
        _write(folder / LEFT_OUT, map(_left_out, counted(left, advance)))
    with work.progress(f"{STEP}: card", 1) as advance:
        card.write_card(folder, _figures(work, placed))
        advance(1)
    if len(left) == len(rows):
        reasons = Counter(row.reason for row in rows).most_common(3)
        told = ", ".join(f"{count} × {reason}" for reason, count in reasons)
        raise LibraError(f"split: no pair went into a stage: {told}; see {folder / LEFT_OUT}")
    written = {f"data/{row.stage}/{row.split}.jsonl" for row in rows if row.stage}
    others = [f"data/{LEFT_OUT}"] if left else []
    files = [*sorted(written), *others, "data/card.json", "data/README.md"]
    figures: dict[str, Any] = {stage: sum(row.stage == stage for row in rows) for stage in STAGES}
    figures["left_out"] = dict(sorted(Counter(row.reason for row in rows if row.stage is None).items()))
    return Done(rows, (), figures, files)


def _left_out(one: Placed) -> dict[str, Any]:
    """The pair, and why it went into no stage; without a label where nobody decided, so that nobody trains on it."""
    row = {**one.sample.model_dump(mode="json"), "left_out": one.reason}
    if row["label_by"] == NOBODY:
        del row["label"]
    return row


def _lost(queries: Sequence[Query]) -> list[Query]:
    """For each parent that a person took away or changed, one of its children: what was made of it stays together."""
    there = {query.id for query in queries}
    lost = {query.parent: query for query in queries if query.parent and query.parent not in there}
    return [query.model_copy(update={"id": parent}) for parent, query in lost.items()]


def _sitting(work: Work) -> list[dict[str, Any]]:
    """Who judged; each part of a step in shards tells of all of them."""
    told = [record["figures"]["judges"] for record in work.records if "judges" in record["figures"]]
    return list(told[-1]) if told else []


def _figures(work: Work, placed: Sequence[Placed]) -> card.CardFigures:
    rejects: dict[str, Counter[str]] = {}
    usage: dict[str, Usage] = {}
    lacking = Counter[str]()
    again: dict[str, Counter[str]] = {}
    contamination: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    for record in work.records:
        rejects.setdefault(record["step"], Counter()).update(record["reasons"])
        for model, spent in record["usage"].items():
            tokens = spent["prompt_tokens"], spent["new_tokens"]
            money = work.cast.price(model).of(*tokens)
            usage[model] = usage.get(model, Usage()) + Usage(spent["calls"], *tokens, money)
        lacking.update(record["figures"].get("lacking", {}))
        for name, reasons in record["figures"].get("asked_again", {}).items():
            again.setdefault(name, Counter()).update(reasons)
        contamination += record["figures"].get("contamination", ())
        # Each part of a step in shards tells of all of them.
        sets = record["figures"].get("sets", sets)
    first, second = ([one.sample for one in placed if one.stage == stage] for stage in STAGES)
    return card.figures(
        first,
        second,
        [card.LeftOut(one.sample, one.reason) for one in placed if one.stage is None],
        rejects,
        usage,
        work.config,
        lacking=dict(sorted(lacking.items())),
        asked_again=dict(sorted(again.items())),
        config=written_down(work, exclude_defaults=True),
        contamination=contamination,
        sets=sets,
        sitting=_sitting(work),
        edited=[record["step"] for record in work.records if record["edited"]],
    )


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
