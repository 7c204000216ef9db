"""What comes back is kept: nobody's work is lost, nobody's stands under two names, and ids survive a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard import errors
from libra_guard.bench import returns
from libra_guard.bench.collect import read_annotations
from libra_guard.bench.reading import Place
from libra_guard.bench.rounds import Round
from libra_guard.errors import UsageError

MakeRound = Callable[..., Round]
Label = Callable[[dict[str, str]], str]


def answers(*labels: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"row": row, "label": label} for row, label in labels]


def fill(one: Round, person: str, label: Label, out: Path) -> Path:
    """A person's sheet, filled in."""
    with (one.folder / "sheets" / f"{person}.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return as_csv(out, [row | {"label": label(row)} for row in rows])


def as_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def kept(one: Round, folder: str = "returned") -> list[str]:
    return sorted(file.name for file in (one.folder / folder).iterdir() if file.is_file())


def test_an_export_with_fewer_answers_replaces_nothing(make_round: MakeRound, tmp_path: Path) -> None:
    one = make_round(3)
    returns.keep_files(one, {"yi": fill(one, "yi", lambda _: "安全", tmp_path / "x.csv")})
    why = returns.keep_export(one, "yi", answers(("r0", "不安全"), ("r1", "不安全"), ("r2", "")))
    assert why.startswith("yi: Label Studio has 2 answers, ")
    assert why.endswith("yi.csv has 3 and was kept; --replace takes the new")
    assert kept(one) == ["yi.csv"]
    assert [a.label for a in returns.collect(one)[0]] == ["安全"] * 3
    # As many are no fewer; and what was replaced is there still.
    assert returns.keep_export(one, "yi", answers(*((f"r{n}", "不安全") for n in range(3)))) == ""
    assert returns.keep_export(one, "yi", [], replace=True) == ""
    assert kept(one) == ["yi.jsonl"]
    assert kept(one, "returned/old") == ["yi.1.csv", "yi.2.jsonl"]
    assert (one.folder / "returned" / "old" / "yi.1.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()


def test_the_same_once_more_leaves_nothing_behind(make_round: MakeRound) -> None:
    one = make_round(2)
    for _ in range(3):
        assert returns.keep_export(one, "yi", answers(("r0", "安全"))) == ""
    assert not (one.folder / "returned" / "old").exists()


def test_someone_called_old(make_round: MakeRound) -> None:
    one = make_round(2, ("old", "yi"))
    for label in ("安全", "不安全"):
        returns.keep_export(one, "old", answers(("r0", label)))
    assert [(a.annotator, a.label) for a in returns.collect(one)[0]] == [("old", "不安全")]


def test_one_file_of_two_people_is_refused(make_round: MakeRound, tmp_path: Path) -> None:
    one = make_round(2)
    path = tmp_path / "x.jsonl"
    path.write_text('{"row": "r0", "label": "安全"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="the same file came back from 甲 and yi"):
        returns.keep_files(one, {"甲": path, "yi": path})
    assert not (one.folder / "returned").exists()
    returns.keep_files(one, {"甲": path})
    with pytest.raises(UsageError, match="the same file came back from 甲 and yi"):
        returns.keep_files(one, {"yi": path})
    assert kept(one) == ["甲.jsonl"]


def test_another_persons_sheet_does_not_count(make_round: MakeRound, tmp_path: Path) -> None:
    one = make_round(3)
    sheet = fill(one, "甲", lambda _: "安全", tmp_path / "x.csv")
    found, faults = read_annotations(one.rows, "yi", str(sheet))
    assert found == []
    assert [(f.line, f.reason) for f in faults] == [
        (2, "3 rows are from 甲's sheet and do not count for yi"),
        (0, "labelled nothing of 3 rows"),
    ]
    tasks = [task | {"annotations": [{"result": []}]} for task in one.tasks("甲")]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    assert "3 rows are from 甲's sheet" in str(read_annotations(one.rows, "yi", str(path))[1][0])


def test_one_person_under_two_names_is_told(make_round: MakeRound) -> None:
    one = make_round(12)
    labels = [(f"r{n}", "安全" if n % 3 else "不安全") for n in range(12)]
    returns.keep_export(one, "甲", answers(*labels))
    returns.keep_export(one, "yi", [*answers(*labels), {"row": "r0", "label": ""}])
    returns.keep_export(one, "bing", answers(*labels[::-1]))
    faults = returns.collect(one)[1]
    assert [(f.annotator, f.reason) for f in faults] == [
        ("yi", "all labels and the order of the rows are those of 甲: did one person do both?")
    ]
    returns.keep_export(one, "yi", answers(("r0", "安全"), *labels[1:]))
    assert returns.collect(one)[1] == []


@pytest.mark.parametrize("names", [("0012", "3-4", "123456789012345678"), ("-1", "=2", "'3")])
def test_what_a_spreadsheet_makes_of_ids_does_no_harm(
    make_round: MakeRound, tmp_path: Path, bench_record: Callable[..., dict[str, Any]], names: tuple[str, ...]
) -> None:
    one = make_round([bench_record(n, id=name) for n, name in enumerate(names)])
    text = (one.folder / "sheets" / "yi.csv").read_text(encoding="utf-8-sig")
    assert not any(name in text for name in names)
    sheet = fill(one, "yi", lambda row: "安全" if row["row"] == "行0001" else "不安全", tmp_path / "x.csv")
    found, faults = read_annotations(one.rows, "yi", str(sheet))
    assert [(a.row, a.label) for a in found] == list(zip(names, ("安全", "不安全", "不安全"), strict=True))
    assert faults == []


def test_a_sheet_of_another_round_is_told(
    make_round: MakeRound, tmp_path: Path, bench_record: Callable[..., dict[str, Any]]
) -> None:
    one = make_round([bench_record(0), bench_record(1, question="长" * 200)])
    other = make_round([bench_record(7), bench_record(1, question="长" * 150)], folder="other")
    found, faults = read_annotations(one.rows, "yi", str(fill(other, "yi", lambda _: "安全", tmp_path / "x.csv")))
    # A long text may have been cut by the program.
    assert [a.row for a in found] == ["r1"]
    assert [(f.row, f.reason) for f in faults if f.row != "r0"] == [
        ("行0001", "another question than this round's: is the sheet of another round?")
    ]


def test_xlsx(make_round: MakeRound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    one, path = make_round(2), tmp_path / "x.XLSX"
    book = openpyxl.Workbook()
    for cells in (("row", "label", "reason"), ("行0001", "安全", 7), ("行0002", "是", None)):
        book.active.append(cells)
    book.save(path)
    returns.keep_files(one, {"yi": path})
    assert kept(one) == ["yi.xlsx"]
    annotations, faults = returns.collect(one)
    assert [(a.row, a.label, a.reason) for a in annotations] == [("r0", "安全", "7")]
    assert [(f.line, f.row) for f in faults if f.annotator == "yi"] == [(3, "r1")]
    real = errors.importlib.import_module

    def without(name: str) -> Any:
        if name == "openpyxl":
            raise ModuleNotFoundError(name=name)
        return real(name)

    monkeypatch.setattr(errors.importlib, "import_module", without)
    with pytest.raises(UsageError, match=r"yi\.xlsx: save it as CSV"):
        returns.collect(one)


def test_what_was_left_half_done_is_told(make_round: MakeRound, tmp_path: Path) -> None:
    one = make_round(3)
    sheet = as_csv(
        tmp_path / "x.csv",
        [
            {"row": "r0", "label": "安全", "category": "", "reason": "两\n行"},
            {"row": "r1", "label": "", "category": "", "reason": "拒绝了"},
            {"row": "r2", "label": "", "category": "赌博", "reason": ""},
        ],
    )
    found, faults = read_annotations(one.rows, "yi", str(sheet))
    assert [a.row for a in found] == ["r0"]
    told = [(f.row, f.reason) for f in faults]
    assert told == [(row, "not labelled, though a reason or a category is given") for row in ("r1", "r2")]
    # To a spreadsheet, a cell of two lines is one row.
    assert [(f.line, f.sheet_row) for f in faults] == [(4, 3), (5, 4)]
    assert str(faults[0]).startswith(f"yi: {sheet}:4 (row 3 of the sheet): r1: ")
    assert Place(4).sheet_row == 0
