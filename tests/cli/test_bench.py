"""libra bench from rows with votes to a release, through files alone; exit codes and what is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from libra_guard.errors import UsageError

Call = Callable[..., Result]
PEOPLE = ("--annotator", "甲", "--annotator", "乙", "--annotator", "丙")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 20 rows, on half of which the judges differ."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    rows = [
        {
            "id": n,
            "source": "Real Data",
            "category_name": "偏见歧视" if n < 10 else "Ethics and Morality",
            "question": f"第{n}问",
            "response": f"第{n}答",
            "votes": [{"judge": "a", "label": "安全"}, {"judge": "b", "label": ("安全", "不安全")[n % 2]}],
        }
        for n in range(20)
    ]
    write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "quotas.yaml").write_text("quotas: {偏见歧视: 5, 伦理道德: 4}\n", encoding="utf-8")
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def select(call: Call, *more: str) -> Result:
    return call("bench", "select", "--data", "rows.jsonl", "--out", "hard.jsonl", *more)


def make_round(call: Call, *more: str) -> Result:
    return call("bench", "round", "--rows", "hard.jsonl", "--out", "round", "--name", "试", *PEOPLE, *more)


def fill(person: str, label: Callable[[str], str]) -> str:
    """A person's sheet, filled in and kept elsewhere."""
    path = Path("round") / "sheets" / f"{person}.csv"
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = [row | {"label": label(row["row"])} for row in csv.DictReader(stream)]
    with Path(f"{person}.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return f"{person}={person}.csv"


def test_from_votes_to_a_release(place: Path, call: Call) -> None:
    done = select(call, "--config", "quotas.yaml")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "Bias and Discrimination: 5 hard and 0 agreed of 5",
        "Ethics and Morality: 4 hard and 0 agreed of 4",
        "hard.jsonl: 9 rows",
    ]
    assert all(int(name) % 2 for name in ids(place / "hard.jsonl"))

    done = make_round(call)
    assert (done.exit_code, done.stderr) == (0, "round: 9 rows for 甲, 乙, 丙\n")
    assert "it stands there already" in make_round(call).stderr

    done = call("bench", "collect", "round", fill("甲", lambda row: "安全"))
    assert done.exit_code == 1
    assert "乙: round/returned: nothing came back\n" in done.stderr
    tied = ids(place / "hard.jsonl")[0]
    both = [fill("乙", lambda row: "安全"), fill("丙", lambda row: "不安全")]
    done = call("bench", "collect", "round", *both)
    assert (done.exit_code, done.stderr) == (0, "round/annotations.jsonl: 27 answers, 0 faults\n")
    fill("乙", lambda row: "不确定" if row == tied else "不安全")
    done = call("bench", "collect", "round", "乙=乙.csv")
    assert done.exit_code == 0

    done = call("bench", "agree", "round", "--resamples", "100")
    assert done.exit_code == 1
    assert "round: 8 rows labelled, 1 open\n" in done.stderr
    assert "alpha below 0.667" in done.stderr
    assert "甲: 0.000 with the majority; 9 labels, 0 不确定, 0 missing" in done.stdout
    assert "乙: 1.000 with the majority; 8 labels, 1 不确定, 0 missing" in done.stdout
    write(place / "answers.jsonl", [{"row": tied, "label": "安全", "reason": "裁定"}])
    done = call("bench", "agree", "round", "--adjudicated", "answers.jsonl")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, "round: 9 rows labelled, 0 open")

    done = call("bench", "release", "round", "--out", "out", "--licence", "cc-by-4.0")
    assert done.exit_code == 0
    assert "not checked against any training data" in done.stderr
    samples = json.loads((place / "out" / "data" / "test.json").read_text(encoding="utf-8"))
    assert [sample["id"] for sample in samples] == ids(place / "hard.jsonl")
    assert {sample["id"]: sample["label"] for sample in samples}[tied] == "安全"
    assert sum(sample["label"] == "不安全" for sample in samples) == 8


def test_what_is_missing_or_cannot_be_read_is_told(place: Path, call: Call) -> None:
    with (place / "rows.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("{broken\n")
    done = select(call, "--quota", "7", "--agreed-share", "0.3")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert "Bias and Discrimination: 5 hard and 2 agreed of 7" in lines
    assert "Rumors and Misinformation: 0 hard and 0 agreed of 7; 7 are missing" in lines
    assert lines[-1] == "hard.jsonl: 14 rows, 1 rejects"
    assert json.loads((place / "hard.rejects.jsonl").read_text(encoding="utf-8"))["line"] == 21


def test_rows_that_cannot_be_labelled_are_told(place: Path, call: Call) -> None:
    write(place / "hard.jsonl", [{"id": 1, "question": "问", "response": "答", "category_name": "偏见歧视"}, {"id": 2}])
    done = make_round(call)
    assert done.exit_code == 1
    assert "hard.jsonl:2: category_name: Field required" in done.stderr
    assert json.loads((place / "round" / "rejects.jsonl").read_text(encoding="utf-8"))["line"] == 2
    write(place / "hard.jsonl", [{"id": 2}])
    assert "no row that could be labelled" in str(make_round(call, "--out", "other").exception)


def test_many_faults_are_cut_short_on_the_screen_and_whole_in_the_file(place: Path, call: Call) -> None:
    write(place / "hard.jsonl", [
        {"id": n, "question": f"问{n}", "response": "答", "category_name": "偏见歧视"} for n in range(60)
    ])  # fmt: skip
    make_round(call)
    done = call("bench", "collect", "round", fill("甲", lambda row: "安全" if row == "1" else "是"))
    assert "… and 41 more" in done.stderr
    assert len((place / "round" / "faults.jsonl").read_text(encoding="utf-8").splitlines()) == 61


def test_leaks(place: Path, call: Call) -> None:
    pytest.importorskip("rensa")
    write(place / "train.jsonl", [{"question": "第1问"}])
    done = select(call, "--config", "quotas.yaml", "--against", "train.jsonl")
    assert done.exit_code == 1
    assert "1 leaks" in done.stderr
    assert json.loads((place / "hard.leaks.jsonl").read_text(encoding="utf-8"))["row"] == "1"
    assert "1" not in ids(place / "hard.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("select", "--data", "rows.jsonl", "--out", "x.jsonl"), "Give --quota"),
        (
            ("select", "--data", "rows.jsonl", "--out", "x.jsonl", "--quota", "1", "--config", "quotas.yaml"),
            "--config is given",
        ),
        (("select", "--data", "none.jsonl", "--out", "x.jsonl", "--quota", "1"), "no such file"),
        (("round", "--rows", "rows.jsonl", "--out", "r", "--name", "x", "--annotator", "甲"), "2 annotators at least"),
        (("round", "--rows", "rows.jsonl", "--out", "r", "--name", "", *PEOPLE), "name"),
        (("send", "nowhere"), "no annotation round"),
        (("collect", "nowhere"), "no annotation round"),
        (("agree", "nowhere"), "no annotation round"),
        (("release", "nowhere", "--out", "x"), "no annotation round"),
    ],
)
def test_wrong_use(place: Path, call: Call, arguments: tuple[str, ...], message: str) -> None:
    done = call("bench", *arguments)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert not (place / "x.jsonl").exists()


def test_a_server_needs_a_token(place: Path, call: Call) -> None:
    select(call, "--config", "quotas.yaml")
    make_round(call)
    for arguments in (("send", "round"), ("collect", "round", "--fetch")):
        assert "set LABEL_STUDIO_API_KEY" in str(call("bench", *arguments).exception)


@pytest.mark.parametrize("command", ["", "select", "round", "send", "collect", "agree", "release"])
def test_help_fits_a_screen(call: Call, command: str) -> None:
    done = call("bench", *filter(None, [command]), "--help")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) <= 42
