"""A round's outcome in files: labels, agreement, and the queue for an adjudicator, whose answers come back in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libra_guard.bench.agreement import LABELS, Agreement, Annotator, by_annotator, by_scenario
from libra_guard.bench.collect import NOT_LABELLED, Annotation, Fault, read_annotations
from libra_guard.bench.labels import MIN_SHARE, Labelled, Open, settle
from libra_guard.bench.reading import Unread, read_said
from libra_guard.bench.returns import ANNOTATIONS, keep_file, read_collected
from libra_guard.bench.rounds import ADJUDICATOR, Round
from libra_guard.bench.rows import as_csv, as_lines, row_keys
from libra_guard.configuration import read_object
from libra_guard.errors import UsageError
from libra_guard.evaluate.significance import check_resamples
from libra_guard.io import BadRow, bytes_hash, read_rows, write_atomic

LABELLED = "labels.jsonl"
AGREEMENT = "agreement.json"
QUEUE = ("adjudicate.csv", "adjudicate.jsonl")
"""The rows that are open, for an adjudicator to fill in either of the two."""
ADJUDICATED = "adjudicated.jsonl"
"""The adjudicator's answers so far, also to rows that are not in the queue now: with another share they may be."""


@dataclass(frozen=True)
class Outcome:
    """What a round came to."""

    labelled: list[Labelled]
    open: list[Open]
    scenarios: dict[str, Agreement]
    """``all`` and each scenario."""
    annotators: dict[str, Annotator]
    faults: list[Fault]
    """In the adjudicator's answers."""
    unused: int
    """Answers of the adjudicator to rows that are not in the queue: kept, and not used."""


def agree(
    one: Round, *, adjudicated: Path | None = None, min_share: float | None = None, resamples: int, seed: int
) -> Outcome:
    """Settles the labels of a round, measures agreement, and writes all of it into the round's folder.

    Agreement is that of the annotators; an adjudicator changes nothing of it.

    Args:
        one: The round, collected.
        adjudicated: The queue, filled in. It is kept under ``returned/``.
        min_share: See ``settle``; by default that of the last time, and ``MIN_SHARE`` the first time.
        resamples: Of the bootstrap, at least 100; 0 gives no intervals.
        seed: Of the bootstrap.

    Raises:
        UsageError: The round has not been collected, or the queue holds answers that were not handed in; or the
            resamples are too few.
    """
    check_resamples("--resamples", resamples)
    annotations = read_collected(one)
    if min_share is None:
        report = one.folder / AGREEMENT
        min_share = read_object(report).get("min_share", MIN_SHARE) if report.exists() else MIN_SHARE
    _spare_answers(one, adjudicated)
    answers, faults = _answers(one, adjudicated)
    labelled, still_open = settle(one.rows, annotations, one.annotators, answers, min_share)
    people = len(one.annotators)
    outcome = Outcome(
        labelled,
        still_open,
        by_scenario(one.rows, annotations, people, resamples=resamples, seed=seed),
        by_annotator(one.rows, annotations, one.annotators),
        faults,
        len(answers) - sum(found.by == ADJUDICATOR for found in labelled),
    )
    settings = {"min_share": min_share, "resamples": resamples, "seed": seed}
    _write(one, outcome, list(answers.values()), settings)
    return outcome


def read_outcome(one: Round) -> tuple[list[Labelled], dict[str, Any]]:
    """The labels and the report that ``agree`` wrote.

    Raises:
        UsageError: It has not been called, or not since the annotations changed.
    """
    path = one.folder / AGREEMENT
    if not path.exists():
        raise UsageError(f"{path}: not there yet; `libra bench agree` writes it")
    report, labelled = read_object(path), one.folder / LABELLED
    if report.get("sha256") != {name: _hash(one, name) for name in (ANNOTATIONS, LABELLED)}:
        raise UsageError(f"{path}: the annotations or labels have changed since; call `libra bench agree` again")
    rows = [row for row in read_rows(labelled) if not isinstance(row, BadRow)]
    return [Labelled(**row.data | {"reasons": tuple(row.data["reasons"])}) for row in rows], report


def _answers(one: Round, file: Path | None) -> tuple[dict[str, Annotation], list[Fault]]:
    """All answers so far, in the order of the rows; a later one replaces an earlier."""
    before = read_collected(one, ADJUDICATED) if (one.folder / ADJUDICATED).exists() else []
    answers, faults = {answer.row: answer for answer in before}, list[Fault]()
    if file is not None:
        # The queue is written anew: what did not parse, and what was left half done, stands in this copy.
        keep_file(one, ADJUDICATOR, file)
        found, wrong = read_annotations(one.rows, ADJUDICATOR, str(file), LABELS)
        answers |= {answer.row: answer for answer in found}
        # What is left blank stays in the queue.
        faults = [fault for fault in wrong if fault.reason != NOT_LABELLED]
    return {row.id: answers[row.id] for row in one.rows if row.id in answers}, faults


def _spare_answers(one: Round, given: Path | None) -> None:
    """The queue is about to be written anew: answers in it that were not handed in must not be lost.

    Raises:
        UsageError: There are some, or something that cannot be read.
    """
    for name in QUEUE:
        path = one.folder / name
        if not path.exists() or (given is not None and given.exists() and path.samefile(given)):
            continue
        if any(isinstance(said, Unread) or said.filled for said in read_said(str(path))):
            raise UsageError(f"{path} holds answers: hand it in with --adjudicated, or move it away")


def _write(one: Round, outcome: Outcome, answers: list[Annotation], settings: dict[str, Any]) -> None:
    keys = {row: key for key, row in row_keys(one.rows).items()}
    queue = [item.as_dict(keys[item.row.id], one.annotators) for item in outcome.open]
    lines = {
        LABELLED: as_lines(found._asdict() for found in outcome.labelled),
        ADJUDICATED: as_lines(answer._asdict() for answer in answers),
        "adjudicate.jsonl": as_lines(queue),
        "adjudicate.csv": as_csv(queue),
    }
    for name, text in lines.items():
        write_atomic(one.folder / name, text)
    report = {
        "labelled": {by: sum(f.by == by for f in outcome.labelled) for by in ("majority", ADJUDICATOR)},
        "open": len(outcome.open),
        **settings,
        "scenarios": {name: found.model_dump() for name, found in outcome.scenarios.items()},
        "annotators": {name: found.model_dump() for name, found in outcome.annotators.items()},
        "sha256": {name: _hash(one, name) for name in (ANNOTATIONS, LABELLED)},
    }
    write_atomic(one.folder / AGREEMENT, json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def _hash(one: Round, name: str) -> str | None:
    path = one.folder / name
    return bytes_hash(path.read_bytes()) if path.exists() else None
