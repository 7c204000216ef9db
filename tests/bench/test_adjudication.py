"""An adjudicator's answers: none is lost, whatever is asked for later, and none is taken for another's."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard.bench import returns
from libra_guard.bench.outcome import Outcome, agree
from libra_guard.bench.rounds import Round
from libra_guard.errors import UsageError

S, U, X = "安全", "不安全", "不确定"


@pytest.fixture
def one(make_round: Callable[..., Round]) -> Round:
    """Rows: all agree, two to one, a tie with 不确定."""
    made = make_round(3)
    for person, labels in {"甲": [S, U, S], "yi": [S, U, U], "bing": [S, S, X]}.items():
        lines = [
            {"row": r.id, "label": label, "reason": f"{person}{label}"}
            for r, label in zip(made.rows, labels, strict=True)
        ]
        returns.keep_export(made, person, lines)
    returns.collect(made)
    return made


def settled(one: Round, **options: Any) -> Outcome:
    return agree(one, **{"resamples": 0, "seed": 0} | options)


def hand_in(one: Round, path: Path, *answers: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    return path


def fill(path: Path, **fields: str) -> None:
    """Fills in the first row of the queue."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0] |= fields
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_answers_stay_whatever_share_is_asked_for(one: Round, tmp_path: Path) -> None:
    assert [item.row.id for item in settled(one, min_share=1).open] == ["r1", "r2"]
    path = hand_in(
        one, tmp_path / "a.jsonl", {"row": "行0002", "label": S, "reason": "裁定"}, {"row": "r2", "label": U}
    )
    found = settled(one, adjudicated=path)
    assert [(f.row, f.label, f.by) for f in found.labelled[1:]] == [("r1", S, "adjudicator"), ("r2", U, "adjudicator")]
    assert found.unused == 0
    # The share is as it was the last time, until another is asked for.
    assert settled(one).labelled == found.labelled
    lower = settled(one, min_share=0.5)
    assert (lower.labelled[1].label, lower.labelled[1].by, lower.unused) == (U, "majority", 1)
    assert settled(one, min_share=1).labelled == found.labelled


def test_a_reason_left_out_is_that_of_those_who_gave_the_label(one: Round, tmp_path: Path) -> None:
    found = settled(one, adjudicated=hand_in(one, tmp_path / "a.jsonl", {"row": "r2", "label": U}))
    assert found.labelled[2].reasons == ("yi不安全",)


def test_what_was_handed_in_is_kept_as_it_came(one: Round) -> None:
    settled(one, min_share=1)
    queue = one.folder / "adjudicate.csv"
    fill(queue, label="unsafe", category="赌博", reason="长长的理由")
    before = queue.read_bytes()
    found = settled(one, adjudicated=queue)
    assert [f.reason for f in found.faults] == ["label 'unsafe' is none of 安全, 不安全"]
    copy = one.folder / "returned" / "adjudicator.csv"
    assert copy.read_bytes() == before
    assert "长长的理由" not in queue.read_text(encoding="utf-8-sig")
    fill(copy, label=U)
    assert settled(one, adjudicated=copy).labelled[1].reasons == ("长长的理由",)
    assert returns.collect(one)[1] == []


@pytest.mark.parametrize("fields", [{"label": U}, {"reason": "想到一半"}, {"category": "赌博"}])
def test_a_queue_with_anything_in_it_is_not_written_over(one: Round, fields: dict[str, str]) -> None:
    settled(one, min_share=1)
    queue = one.folder / "adjudicate.csv"
    fill(queue, **fields)
    before = queue.read_bytes()
    with pytest.raises(UsageError, match=r"adjudicate\.csv holds answers"):
        settled(one)
    assert queue.read_bytes() == before


def test_a_queue_that_cannot_be_read_is_not_written_over(one: Round) -> None:
    settled(one)
    (one.folder / "adjudicate.csv").write_text('row,label\n"r2,安全\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"adjudicate\.csv holds answers"):
        settled(one)


def test_a_reason_alone_is_told_and_kept(one: Round) -> None:
    settled(one)
    queue = one.folder / "adjudicate.csv"
    fill(queue, reason="想到一半")
    found = settled(one, adjudicated=queue)
    assert [f.reason for f in found.faults] == ["not labelled, though a reason or a category is given"]
    assert "想到一半" in (one.folder / "returned" / "adjudicator.csv").read_text(encoding="utf-8-sig")


def test_an_annotators_sheet_is_no_adjudication(one: Round, tmp_path: Path) -> None:
    path = hand_in(one, tmp_path / "a.jsonl", {"row": "r2", "label": U, "person": "yi"})
    found = settled(one, adjudicated=path)
    assert next(f.reason for f in found.faults) == "1 rows are from yi's sheet and do not count for adjudicator"
    assert [item.row.id for item in found.open] == ["r2"]
