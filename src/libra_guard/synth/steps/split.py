"""The two stages: what the judges agree on, and the hard samples that a stronger one decided.

Questions stand on one side of the split with all that was made of them: train, dev and test are told by the text of the
query at the root. Of one whose root went as a near-duplicate, it is the root of what that one was too near to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from libra_guard.records import Label, Origin, Sample
from libra_guard.synth.config import SplitSettings
from libra_guard.synth.records import Judged, MadeBy, Query
from libra_guard.synth.steps.annotate import STEP

Stage = Literal["stage1", "stage2"]
NOBODY = "nobody"
"""``label_by`` of a pair that is undecided: its label stands for none."""
REPEATED = "another responder's answer, word for word"
_Judges = Mapping[tuple[str, str], MadeBy]
"""Seat and name → who stands beside a label."""


class Placed(NamedTuple):
    """A sample and where it belongs."""

    sample: Sample
    stage: Stage | None
    """None: left out."""
    reason: str = ""
    """Why it is left out."""


def place(
    rows: Sequence[Judged],
    queries: Sequence[Query],
    settings: SplitSettings,
    sitting: Iterable[Mapping[str, Any]] = (),
) -> Iterator[Placed]:
    """Each pair as a sample of one of the stages, or left out.

    Args:
        rows: The judged pairs.
        queries: All queries that were made, dropped ones too: the parents of those that were answered.
        settings: Which goes where.
        sitting: Who judged, as ``made_of.judges_of`` tells; of others the name alone stands beside their labels.
    """
    judges = {
        (one["seat"], one["name"]): MadeBy(
            step=STEP, model=one["name"], prompt=one.get("prompt", ""), seed=one.get("seed", 0)
        )
        for one in sitting
    }
    known = {query.id: query for query in queries}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        placed = _placed(row, row.root_question or _root(row, known), settings, judges)
        # Not before: whoever answers what others do has answered, and was perhaps refused.
        if placed.stage and (row.question, row.response) in seen:
            placed = Placed(placed.sample, None, REPEATED)
        elif placed.stage:
            seen.add((row.question, row.response))
        yield placed


def _placed(row: Judged, root: str, settings: SplitSettings, judges: _Judges) -> Placed:
    make = partial(_sample, row, root, judges)
    agreed = row.agreed
    if agreed:
        analysis = next((vote.analysis for vote in row.votes if vote.analysis), "")
        sample = make(agreed, analysis, "agreement")
        if row.origin is Origin.SYNTHETIC or settings.agreed_real == "stage1":
            return Placed(sample, "stage1")
        if settings.agreed_real == "stage2":
            return Placed(sample, "stage2")
        return Placed(sample, None, "real, and the judges agree: not hard")
    # A sample has a label, so that of an undecided one is the cautious one; it goes into no stage, and no file has it.
    if row.unread:
        return Placed(make(Label.UNSAFE, "", NOBODY), None, "a judge could not be read")
    last = row.arbiter
    if last is None or last.label is None:
        why = "no arbiter decides" if last is None else "the arbiter's answer cannot be read"
        return Placed(make(Label.UNSAFE, "", NOBODY), None, f"the judges differ, and {why}")
    if last.label is Label.CONTROVERSIAL:
        return Placed(make(Label.UNSAFE, last.analysis, NOBODY), None, "the arbiter calls it 有争议")
    sample = make(last.label, last.analysis, "arbiter")
    if row.origin in settings.hard:
        return Placed(sample, "stage2")
    return Placed(sample, None, f"the judges differ, and {row.origin.value} ones are not wanted as hard samples")


def _sample(row: Judged, root: str, judges: _Judges, label: Label, analysis: str, label_by: str) -> Sample:
    return Sample.model_validate(
        {
            "source": row.origin.source,
            "category_name": row.category_name,
            "sub_category_name": row.sub_category_name,
            "question": row.question,
            "response": row.response,
            "label": label,
            "analyze": analysis,
            "id": row.id,
            "label_by": label_by,
            "intent": row.intent.value,
            "origin": row.origin.value,
            "set": row.source,
            "set_id": row.source_id,
            "original": row.original,
            "overlap": row.overlap,
            "responder": row.responder,
            "refused": row.refused,
            "cut": row.cut,
            "votes": [vote.model_dump(mode="json") for vote in row.votes],
            "arbiter": row.arbiter.model_dump(mode="json") if row.arbiter else None,
            "query": row.query,
            "parent": row.parent,
            "root_question": root,
            "elements": row.elements,
            "made_by": [made.model_dump(mode="json") for made in (*row.made_by, *_labelled(row, label_by, judges))],
        }
    )


def _labelled(row: Judged, label_by: str, judges: _Judges) -> Iterator[MadeBy]:
    """Who gave a sample its label."""
    seat, votes = {"agreement": ("judge", row.votes), "arbiter": ("arbiter", (row.arbiter,))}.get(label_by, ("", ()))
    for vote in votes:
        if vote:
            made = judges.get((seat, vote.judge), MadeBy(step=STEP, model=vote.judge))
            yield made.model_copy(update={"seed": made.seed + vote.asked - 1})


def _root(row: Judged, known: dict[str, Query]) -> str:
    question, parent = row.question, row.parent
    seen: set[str] = set()
    while parent in known and parent not in seen:
        seen.add(parent)
        question, parent = known[parent].question, known[parent].parent
    return question
