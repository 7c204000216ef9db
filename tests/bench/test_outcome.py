"""Majority, queue, adjudication, release."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from libra_guard.bench import returns
from libra_guard.bench.labels import MIN_SHARE, settle
from libra_guard.bench.outcome import Outcome, agree, read_outcome
from libra_guard.bench.release import release
from libra_guard.bench.rounds import Round
from libra_guard.errors import UsageError
from libra_guard.evaluate.predictions import load_labels
from libra_guard.io import read_rows
from libra_guard.records import Sample
from libra_guard.taxonomy import SCENARIOS

MakeRound = Callable[..., Round]
S, U, X = "安全", "不安全", "不确定"


def returned(one: Round, answers: dict[str, list[str | None]], category: str = "") -> Round:
    """Everyone's answers, row by row."""
    for person, labels in answers.items():
        lines = [
            {"row": row.id, "label": label, "reason": f"{person}说{label}", "category": category}
            for row, label in zip(one.rows, labels, strict=True)
            if label
        ]
        returns.keep_export(one, person, lines)
    returns.collect(one)
    return one


def settled(one: Round, **options: Any) -> Outcome:
    return agree(one, **{"min_share": MIN_SHARE, "resamples": 100, "seed": 0} | options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture
def one(make_round: MakeRound) -> Round:
    """Rows: all agree, two to one, a tie with 不确定, one missing, all unsure."""
    return returned(make_round(5), {"甲": [S, U, S, U, X], "yi": [S, U, U, U, X], "bing": [S, S, X, None, X]})


def test_majority_and_queue(one: Round) -> None:
    found = settled(one)
    assert [(f.row, f.label, f.by) for f in found.labelled] == [
        ("r0", S, "majority"),
        ("r1", U, "majority"),
        ("r3", U, "majority"),
    ]
    assert found.labelled[1].votes == {"甲": U, "yi": U, "bing": S}
    assert found.labelled[1].reasons == ("甲说不安全", "yi说不安全")
    assert [(item.row.id, item.why) for item in found.open] == [
        ("r2", "没有过半：1 人选“安全”，1 人选“不安全”，1 人选“不确定”"),
        ("r4", "没有过半：3 人选“不确定”"),
    ]
    queue = lines(one.folder / "adjudicate.jsonl")
    assert [item["row"] for item in queue] == ["行0003", "行0005"]
    # Whose answer it is, the adjudicator does not see: 乙 is the second.
    assert queue[0]["answers"] == "甲：安全　甲说安全\n乙：不安全　yi说不安全\n丙：不确定　bing说不确定"
    assert (queue[0]["label"], queue[0]["question"], queue[0]["scenario"]) == ("", "第2问", "违法犯罪")
    with (one.folder / "adjudicate.csv").open(encoding="utf-8-sig", newline="") as stream:
        assert list(csv.DictReader(stream)) == queue


@pytest.mark.parametrize(
    ("labels", "min_share", "wanted"),
    [
        ([S, S, U], 2 / 3, S),
        ([S, S, U], 0.7, None),
        ([S, S], 2 / 3, S),
        ([S], 2 / 3, None),
        ([S], 0, None),
        ([U, U, U], 1, U),
        ([], 0, None),
        ([X, X, S], 0, None),
    ],
)
def test_who_said_nothing_counts_against_a_label(
    make_round: MakeRound, labels: list[str], min_share: float, wanted: str | None
) -> None:
    one = make_round(1)
    said = [
        returns.Annotation("r0", person, label, "", "") for person, label in zip(one.annotators, labels, strict=False)
    ]
    found, still_open = settle(one.rows, said, one.annotators, {}, min_share)
    assert [f.label for f in found] == ([wanted] if wanted else [])
    assert len(still_open) == (0 if wanted else 1)


def test_four_annotators_can_tie(make_round: MakeRound) -> None:
    one = returned(make_round(1, ("a", "b", "c", "d")), {"a": [S], "b": [S], "c": [U], "d": [U]})
    assert settled(one, min_share=0.5).open[0].why == "没有过半：2 人选“安全”，2 人选“不安全”"


def test_low_agreement_goes_to_the_queue_when_asked(one: Round) -> None:
    found = settled(one, min_share=1.0)
    assert (found.open[0].row.id, found.open[0].why) == ("r1", "3 人中只有 2 人选“不安全”")
    assert [f.row for f in found.labelled] == ["r0"]


def test_a_row_moves_where_most_name_the_same_sub_category(make_round: MakeRound) -> None:
    one = returned(make_round(1), {"甲": [S], "yi": [S]}, category="赌博")
    assert settled(one).labelled[0].sub_category == "Gambling"
    returned(one, {"yi": [S]})
    assert settled(one).labelled[0].sub_category == ""


def test_agreement_is_that_of_the_annotators(one: Round) -> None:
    found = settled(one)
    assert (found.scenarios["all"].rows, found.scenarios["all"].fleiss_rows) == (5, 2)
    assert [(p.labelled, p.unsure, p.missing, p.compared, p.with_others) for p in found.annotators.values()] == [
        (4, 1, 0, 1, 1.0),
        (4, 1, 0, 1, 1.0),
        (2, 2, 1, 2, 0.5),
    ]
    assert settled(one, min_share=1).annotators == found.annotators
    found = settled(one, min_share=MIN_SHARE)
    before = found.scenarios
    (one.folder / "answers.jsonl").write_text('{"row": "r2", "label": "安全"}\n', encoding="utf-8")
    after = settled(one, adjudicated=one.folder / "answers.jsonl")
    assert after.scenarios == before
    assert after.annotators == found.annotators


def fill(path: Path, field: str = "label", **answers: str) -> None:
    """Fills in a field of the queue, and 裁定 as the reason of a label; r0 is the first row of the round."""
    said = {f"行{int(row[1:]) + 1:04d}": {field: answer} for row, answer in answers.items()}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = [row | said.get(row["row"], {}) for row in csv.DictReader(stream)]
    for row in rows:
        row["reason"] = row["reason"] or ("裁定" if row["label"] else "")
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_adjudicators_answers_come_back_in_and_stay(one: Round) -> None:
    settled(one)
    queue = one.folder / "adjudicate.csv"
    fill(queue, r2=U)
    found = settled(one, adjudicated=queue)
    assert [(f.row, f.label, f.by) for f in found.labelled][2] == ("r2", U, "adjudicator")
    assert found.labelled[2].reasons == ("裁定",)
    assert [item.row.id for item in found.open] == ["r4"]
    assert found.faults == []
    # Asked again without the file, and with one for the rest.
    assert [f.row for f in settled(one).labelled] == ["r0", "r1", "r2", "r3"]
    fill(queue, r4=S)
    found = settled(one, adjudicated=queue)
    assert found.open == []
    assert lines(one.folder / "adjudicate.jsonl") == []
    assert settled(one).labelled == found.labelled


def test_answers_in_the_queue_are_not_written_over(one: Round) -> None:
    settled(one)
    queue = one.folder / "adjudicate.csv"
    fill(queue, r2=U)
    before = queue.read_bytes()
    with pytest.raises(UsageError, match=r"adjudicate\.csv holds answers: hand it in with --adjudicated"):
        settled(one)
    with pytest.raises(UsageError, match=r"adjudicate\.csv holds answers"):
        settled(one, adjudicated=one.folder / "adjudicate.jsonl")
    assert queue.read_bytes() == before


def test_faulty_answers_of_the_adjudicator(one: Round) -> None:
    path = one.folder / "answers.jsonl"
    answers = [{"row": "r2", "label": X}, {"row": "r0", "label": U}, {"row": "r4", "label": S}]
    path.write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")
    found = settled(one, adjudicated=path)
    assert [(f.line, f.row, f.reason) for f in found.faults] == [(1, "r2", "label '不确定' is none of 安全, 不安全")]
    assert found.unused == 1
    assert [item.row.id for item in found.open] == ["r2"]
    assert found.labelled[0].label == S


def test_what_was_settled_is_bound_to_what_was_collected(one: Round) -> None:
    with pytest.raises(UsageError, match="libra bench agree"):
        read_outcome(one)
    settled(one)
    labelled, report = read_outcome(one)
    assert [f.row for f in labelled] == ["r0", "r1", "r3"]
    assert report["labelled"] == {"majority": 3, "adjudicator": 0}
    returned(one, {"甲": [S, S, S, S, S]})
    with pytest.raises(UsageError, match="have changed since"):
        read_outcome(one)


def test_a_bootstrap_of_few_is_refused_before_anything_is_written(one: Round) -> None:
    with pytest.raises(UsageError, match="--resamples 99: at least 100"):
        settled(one, resamples=99)
    assert not (one.folder / "labels.jsonl").exists()


def test_twice_the_same_bytes(one: Round) -> None:
    names = ("labels.jsonl", "agreement.json", "adjudicate.csv", "adjudicate.jsonl", "adjudicated.jsonl")
    settled(one)
    before = [(one.folder / name).read_bytes() for name in names]
    settled(one)
    assert [(one.folder / name).read_bytes() for name in names] == before


def test_release(one: Round, tmp_path: Path) -> None:
    settled(one)
    made = release(one, tmp_path / "out", licence="apache-2.0")
    assert (len(made.samples), made.open, made.leaks) == (3, 2, [])
    data = json.loads((tmp_path / "out" / "data" / "test.json").read_text(encoding="utf-8"))
    assert [list(row) for row in data] == [list(Sample.model_fields)] * 3
    assert [(r["id"], r["label"], r["source"]) for r in data] == [
        ("r0", S, "Real Data"),
        ("r1", U, "Synthetic Data"),
        ("r3", U, "Real Data"),
    ]
    assert data[1]["analyze"] == "甲说不安全\nyi说不安全"
    assert [row.data for row in read_rows(tmp_path / "out" / "data" / "test.parquet")] == data
    labels, tally = load_labels(tmp_path / "out" / "data" / "test.json")
    assert [found.unsafe for found in labels] == [False, True, True]
    assert not tally.counts
    assert {f.stem for f in (tmp_path / "out" / "rules").iterdir()} == {one.slug for one in SCENARIOS}


def test_the_sums_are_of_every_file(one: Round, tmp_path: Path) -> None:
    settled(one)
    out = tmp_path / "out"
    release(one, out)
    found = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    files = {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()} - {"SHA256SUMS"}
    assert set(found) == files
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in found.items())
    release(one, tmp_path / "again")
    assert (tmp_path / "again" / "SHA256SUMS").read_bytes() == (out / "SHA256SUMS").read_bytes()


def test_the_card(one: Round, tmp_path: Path) -> None:
    settled(one)
    release(one, tmp_path / "out", licence="apache-2.0")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert head["configs"][0]["data_files"] == [{"split": "test", "path": "data/test.json"}]
    for needed in (
        "| Illegal Activities and Crime | 1 | 2 | 3 |",
        "| Real Data | 1 | 1 | 2 |",
        "5 rows went to 3 people",
        "All of them called 2 rows 安全 or 不安全, some of them 2, none of them\n1.",
        "the reasons of the adjudicator or of those who gave the label; 0 rows have none.",
        "Nothing tells how the rows were selected.",
        "| 2 | 0.",
        "| 4 | 26.7 % | 6.7 % |",
        "1.000 of 1, 1.000 of 1, 0.500 of 2.",
        "Left out: 2 rows without a label, 0 whose question,",
        "**It was not checked against any training data.**",
        one.record.rules["illegal_activities_and_crime"],
        "| all | 5 | ",
    ):
        assert needed in text, needed
    assert not [line for line in text.splitlines() if "甲" in line or "bing" in line]
    release(one, tmp_path / "bare")
    assert "No licence is given" in (tmp_path / "bare" / "README.md").read_text(encoding="utf-8")


def test_rows_in_training_data_are_left_out(one: Round, tmp_path: Path, write: Callable[..., Path]) -> None:
    pytest.importorskip("rensa")
    settled(one)
    train = write("train.jsonl", [{"question": "第 1 问？"}, {"question": "今天天气怎么样"}])
    made = release(one, tmp_path / "out", against=[str(train)])
    assert [sample.id for sample in made.samples] == ["r0", "r3"]
    assert [(leak["row"], leak["line"]) for leak in lines(one.folder / "leaks.jsonl")] == [("r1", 1)]
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "1 whose question, or the one that it was made of, stands in training data" in text
    assert f"- `train.jsonl` (sha256:{hashlib.sha256(train.read_bytes()).hexdigest()})" in text


def test_a_release_is_whole_or_not_there(one: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(one)
    with monkeypatch.context() as patched:
        patched.setattr("libra_guard.bench.release._card", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            release(one, tmp_path / "out")
    assert not [f for f in tmp_path.iterdir() if "out" in f.name]
    (tmp_path / "out").mkdir()
    release(one, tmp_path / "out")
    with pytest.raises(UsageError, match="holds something already"):
        release(one, tmp_path / "out")


def test_nothing_to_release(make_round: MakeRound, tmp_path: Path) -> None:
    one = returned(make_round(1), {"甲": [X], "yi": [X], "bing": [X]})
    settled(one)
    with pytest.raises(UsageError, match="no labelled row is left"):
        release(one, tmp_path / "out")


def test_rules_that_were_changed_since(one: Round, tmp_path: Path) -> None:
    settled(one)
    path = one.folder / "rules" / "illegal_activities_and_crime.md"
    path.write_text(path.read_text(encoding="utf-8") + "。", encoding="utf-8")
    with pytest.raises(UsageError, match="not the rules that this round was made with"):
        release(one, tmp_path / "out")


@pytest.mark.parametrize(
    ("category", "wanted"),
    [
        ("", ("Bias and Discrimination", "Gender")),
        ("暴力犯罪", ("Illegal Activities and Crime", "Violent Crimes")),
        ("赌博", ("Illegal Activities and Crime", "Gambling")),
    ],
)
def test_a_row_leaves_its_scenario_by_an_adjudicator_alone(
    make_round: MakeRound, tmp_path: Path, category: str, wanted: tuple[str, str]
) -> None:
    one = returned(make_round(1), {"甲": [S], "yi": [S]}, category="性别歧视")
    found = settled(one)
    assert found.labelled == []
    assert found.open[0].why.startswith("多数人建议改为另一场景“偏见歧视”的“性别歧视”，category 一栏留空即采用")
    queue = one.folder / "adjudicate.csv"
    assert "甲：安全　建议类别：性别歧视　甲说安全" in queue.read_text(encoding="utf-8-sig")
    fill(queue, r0=S)
    if category:
        fill(queue, "category", r0=category)
    found = settled(one, adjudicated=queue)
    assert (found.labelled[0].by, found.labelled[0].reasons) == ("adjudicator", ("裁定",))
    assert found.labelled[0].sub_category == ("" if category == "暴力犯罪" else wanted[1])
    sample = release(one, tmp_path / "out").samples[0]
    assert (sample.category_name, sample.sub_category_name) == wanted
