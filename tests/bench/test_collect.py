"""What comes back: three forms, one result; and every fault with its place."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from libra_guard.bench import returns
from libra_guard.bench.collect import Annotation, read_annotations
from libra_guard.bench.rounds import Round
from libra_guard.errors import UsageError

MakeRound = Callable[..., Round]
Write = Callable[..., Path]


def task(row: str | None, *answers: dict[str, Any] | None) -> dict[str, Any]:
    """A task of Label Studio's export; an answer of None was skipped."""
    annotations = []
    for answer in answers:
        result = [
            {
                "from_name": name,
                "to_name": "response",
                "type": "x",
                "value": {"text" if name == "reason" else "choices": [v]},
            }
            for name, v in (answer or {}).items()
        ]
        annotations.append({"id": 1, "completed_by": 1, "was_cancelled": answer is None, "result": result})
    return {"id": 99, "data": {"row": row, "question": "x"}, "annotations": annotations, "predictions": []}


def filled(row: str, label: Any, reason: str = "", category: str = "") -> dict[str, Any]:
    return {"row": row, "question": "x", "label": label, "category": category, "reason": reason}


def as_csv(path: Path, lines: Sequence[dict[str, Any]], encoding: str = "utf-8-sig") -> Path:
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def read(one: Round, file: Path) -> tuple[list[Annotation], list[tuple[int, str, str]]]:
    found, faults = read_annotations(one.rows, "yi", str(file))
    assert {fault.file for fault in faults} <= {str(file)}
    assert {fault.annotator for fault in faults} <= {"yi"}
    return found, [(fault.line, fault.row, fault.reason) for fault in faults]


WANTED = [
    Annotation("r0", "yi", "安全", "", "拒绝了"),
    Annotation("r1", "yi", "不确定", "", ""),
    Annotation("r2", "yi", "不安全", "Gambling", "a\nb"),
]


@pytest.mark.parametrize("form", ["export", "export as lines", "csv", "csv in gb18030", "jsonl", "JSON-MIN"])
def test_every_form_says_the_same(make_round: MakeRound, tmp_path: Path, write: Write, form: str) -> None:
    one = make_round(3)
    lines = [filled("r2", "不安全", "a\nb", "赌博"), filled("r0", " 安全\n", "拒绝了"), filled("r1", "不确定")]
    tasks = [
        task("r2", {"label": "不安全", "reason": "a\nb", "category": "赌博"}),
        task("r0", None, {"label": "安全", "reason": "拒绝了"}),
        task("r1", {"label": "不确定"}),
    ]
    if form == "export":
        path = tmp_path / "x.json"
        path.write_text(json.dumps(tasks), encoding="utf-8")
    elif form == "JSON-MIN":
        path = tmp_path / "x.json"
        path.write_text(json.dumps([{k: v for k, v in line.items() if v} | {"id": 4} for line in lines]))
    elif form.startswith("csv"):
        path = as_csv(tmp_path / "x.csv", lines, "gb18030" if "gb" in form else "utf-8-sig")
    else:
        path = write("x.jsonl", tasks if form == "export as lines" else lines)
    assert read(one, path) == (WANTED, [])


def test_faults_have_their_place(make_round: MakeRound, tmp_path: Path) -> None:
    lines = [
        filled("r0", "安全"),
        filled("r1", "safe"),
        filled("r2", ""),
        filled("x9", "安全"),
        filled("", "安全"),
        filled("r3", "安全"),
        filled("r3", "安全"),
        filled("r4", "安全"),
        filled("r4", "不安全"),
        filled("r5", "安全", category="天气"),
    ]
    found, faults = read(make_round(7), as_csv(tmp_path / "x.csv", lines))
    assert [(a.row, a.label, a.category) for a in found] == [("r0", "安全", ""), ("r3", "安全", ""), ("r5", "安全", "")]
    assert sorted(fault for fault in faults if fault[1] != "r5") == [
        (0, "r6", "not labelled"),
        (3, "r1", "label 'safe' is none of 安全, 不安全, 不确定"),
        (4, "r2", "not labelled"),
        (5, "x9", "no row to be labelled has this id"),
        (6, "", "no 'row' tells which row"),
        (8, "r3", "labelled a second time, with the same answer"),
        (10, "r4", "labelled a second time, with another answer"),
    ]
    told = next(f[2] for f in faults if f[1] == "r5")
    assert told.startswith("the label counts; category '天气' is none of 暴力犯罪、")
    assert not re.search("[A-Za-z]{3}", told.partition("none of")[2])


@pytest.mark.parametrize(
    "content",
    ["", "row,label\n", "row,label\nr0,\nr1,\n", '[{"data": {"row": "r0"}, "annotations": []}]'],
    ids=["empty", "header", "blank sheet", "untouched project"],
)
def test_an_annotator_who_labelled_nothing(make_round: MakeRound, tmp_path: Path, content: str) -> None:
    path = tmp_path / ("x.json" if content.startswith("[") else "x.csv")
    path.write_text(content, encoding="utf-8")
    assert read(make_round(3), path) == ([], [(0, "", "labelled nothing of 3 rows")])


def test_what_is_damaged_is_told(make_round: MakeRound, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = [filled("r0", "安全"), task("r1", {"label": "安全"}, {"label": "不安全"})]
    odd = [{"data": {"row": "r2"}, "annotations": [None, {"result": [3, {"from_name": "label", "value": 1}]}]}]
    lines = [json.dumps(line) for line in good + odd]
    path.write_text("\n".join([lines[0], "{broken", *lines[1:]]), encoding="utf-8")
    found, faults = read(make_round(3), path)
    assert [a.row for a in found] == ["r0"]
    assert [(line, row) for line, row, _ in faults] == [(2, ""), (3, "r1"), (4, "r2")]
    assert faults[0][2].startswith("not JSON")
    assert faults[2][2] == "not labelled"


def test_an_id_that_a_sheet_had_to_quote_is_found(
    make_round: MakeRound, tmp_path: Path, bench_record: Callable[..., dict[str, Any]]
) -> None:
    one = make_round([bench_record(0, id="-1"), bench_record(1, id="'2")])
    found, faults = read(one, as_csv(tmp_path / "x.csv", [filled("'-1", "安全"), filled("'2", "安全")]))
    assert [a.row for a in found] == ["-1", "'2"]
    assert faults == []


def test_a_task_that_was_skipped_is_not_labelled_whatever_was_ticked_before(
    make_round: MakeRound, write: Write
) -> None:
    skipped = task("r0", {"label": "安全"})
    skipped["annotations"][0]["was_cancelled"] = True
    found, faults = read(make_round(2), write("x.jsonl", [skipped, task("r1", {"label": "安全"})]))
    assert [a.row for a in found] == ["r1"]
    assert faults == [(0, "r0", "not labelled")]


def test_annotators_come_one_by_one(make_round: MakeRound, tmp_path: Path, write: Write) -> None:
    one = make_round(2)
    returns.keep_file(one, "yi", as_csv(tmp_path / "any name.v2.CSV", [filled("r0", "安全"), filled("r1", "安全")]))
    annotations, faults = returns.collect(one)
    assert len(annotations) == 2
    assert [(f.annotator, f.reason) for f in faults] == [("甲", "nothing came back"), ("bing", "nothing came back")]
    # What comes later replaces what came before, in whatever form.
    returns.keep_file(one, "yi", write("x.jsonl", [filled("r0", "不安全")]))
    returns.keep_export(one, "甲", [task("r0", {"label": "安全"})])
    annotations, faults = returns.collect(one)
    assert [(a.annotator, a.label) for a in annotations] == [("甲", "安全"), ("yi", "不安全")]
    assert sorted(f.name for f in (one.folder / "returned").iterdir()) == ["old", "yi.jsonl", "甲.jsonl"]
    assert [f.name for f in (one.folder / "returned" / "old").iterdir()] == ["yi.1.csv"]
    assert returns.read_collected(one) == annotations
    told = [json.loads(line) for line in (one.folder / "faults.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(f["annotator"], f["row"]) for f in told] == [("甲", "r1"), ("yi", "r1"), ("bing", "")]
    # A file that lies there already is read where it lies.
    returns.keep_file(one, "yi", one.folder / "returned" / "yi.jsonl")
    assert returns.collect(one)[0] == annotations


def test_arguments(make_round: MakeRound, tmp_path: Path) -> None:
    people = ("甲", "yi")
    assert returns.given_files(["yi=a=b.csv"], people) == {"yi": Path("a=b.csv")}
    for pairs, message in (
        (["a.csv"], "write NAME=FILE"),
        (["yi="], "write NAME=FILE"),
        (["ding=a.csv"], "the round's annotators are 甲, yi"),
        (["yi=a.csv", "yi=b.csv"], "yi has a.csv already"),
    ):
        with pytest.raises(UsageError, match=message):
            returns.given_files(pairs, people)
    one = make_round(2)
    for file, message in ((tmp_path / "none.csv", "no such file"), (tmp_path, "one file is needed|no .json")):
        with pytest.raises(UsageError, match=message):
            returns.keep_file(one, "yi", file)
    with pytest.raises(UsageError, match="libra bench collect"):
        returns.read_collected(one)
    (one.folder / "annotations.jsonl").write_text('{"row": "r0"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"annotations\.jsonl:1: no annotation of this round"):
        returns.read_collected(one)
