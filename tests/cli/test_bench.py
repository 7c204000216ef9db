"""libra bench from rows with votes to a release, through files alone; exit codes and what is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from libra_guard.bench import label_studio
from libra_guard.bench.rounds import Round
from libra_guard.bench.rows import row_keys
from libra_guard.errors import UsageError
from libra_guard.io import file_hash

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
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def select(call: Call, *more: str) -> Result:
    return call("bench", "select", "--data", "rows.jsonl", "--out", "hard.jsonl", *more)


def make_round(call: Call, *more: str) -> Result:
    return call("bench", "round", "--rows", "hard.jsonl", "--out", "round", "--name", "试", *PEOPLE, *more)


def fill(person: str, label: Callable[[str], str]) -> str:
    """A person's sheet, filled in and kept elsewhere; labels by the row's id."""
    path, keys = Path("round") / "sheets" / f"{person}.csv", row_keys(Round(Path("round")).rows)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = [row | {"label": label(keys[row["row"]])} for row in csv.DictReader(stream)]
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
    assert "甲: 0.000 with the majority of the others on 8 rows; 9 labels, 0 不确定, 0 missing" in done.stdout
    assert "乙: – with the majority of the others on 0 rows; 8 labels, 1 不确定, 0 missing" in done.stdout
    assert "alpha below 0.667, so look at the rules and talk to the annotators: Bias" in done.stderr
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
    assert "Rumors and Misinformation: 0 hard and 0 agreed of 7; 7 missing" in lines
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


def test_fetching_takes_nothing_from_anyone(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "t")
    select(call, "--config", "quotas.yaml")
    make_round(call)
    call("bench", "collect", "round", fill("甲", lambda row: "安全"))
    asked: list[str] = []

    def untouched(one: Round, server: object, but: Collection[str] = ()) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for name in (name for name in one.annotators if name not in but):
            asked.append(name)
            yield name, [task | {"annotations": []} for task in one.tasks(name)]

    monkeypatch.setattr(label_studio, "fetch", untouched)
    done = call("bench", "collect", "round", fill("乙", lambda row: "不安全"), "--fetch")
    assert (done.exit_code, asked) == (1, ["甲", "丙"])
    assert "甲: Label Studio has 0 answers, round/returned/甲.csv has 9 and was kept" in done.stderr
    labels = [
        json.loads(line)["label"] for line in (place / "round" / "annotations.jsonl").read_text("utf-8").splitlines()
    ]
    assert labels == ["安全"] * 9 + ["不安全"] * 9
    call("bench", "collect", "round", "--fetch", "--replace")
    assert sorted(file.name for file in (place / "round" / "returned" / "old").iterdir()) == ["乙.1.csv", "甲.1.csv"]
    assert "--replace says what --fetch may do" in str(call("bench", "collect", "round", "--replace").exception)


@pytest.mark.parametrize("out", ["rows.jsonl", "./rows.jsonl", "link.jsonl", "judge/0.jsonl", "quotas.yaml"])
def test_what_is_read_is_not_written_over(place: Path, call: Call, out: str) -> None:
    (place / "link.jsonl").hardlink_to(place / "rows.jsonl")
    write(place / "judge" / "0.jsonl", [{"id": 1}])
    write(place / "other" / "0.jsonl", [{"id": 1}])
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    judges = ("--judge", "judge", "--judge", "other")
    done = call("bench", "select", "--data", "rows.jsonl", "--out", out, "--config", "quotas.yaml", *judges)
    assert "is read, and would be written over: choose another --out" in str(done.exception)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_nor_what_stands_beside_the_output(place: Path, call: Call) -> None:
    write(place / "x.leaks.jsonl", [{"question": "问"}])
    done = call(
        "bench", "select", "--data", "rows.jsonl", "--out", "x.jsonl", "--quota", "1", "--against", "x.leaks.jsonl"
    )
    assert "x.leaks.jsonl is read" in str(done.exception)


def judged(place: Path, name: str, label: str, **guard: Any) -> tuple[str, str]:
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text("utf-8").splitlines()]
    verdict = {"unsafe_score": 0.5, "valid": True}
    labels = [label if row["id"] % 2 else "安全" for row in rows]
    lines = [row | {"verdict": verdict | {"label": said}} for row, said in zip(rows, labels, strict=True)]
    write(place / name / "0-of-1.jsonl", lines)
    (place / name / "run.json").write_text(json.dumps({"guard": guard}), encoding="utf-8")
    return "--judge", name


def test_how_rows_were_selected_comes_to_the_card(place: Path, call: Call) -> None:
    judges = judged(place, "one", "安全", guard="mini", model="m1", threshold=0.5)
    judges += judged(place, "two", "不安全", guard="libra", model="m2", threshold=0.3)
    done = select(call, "--quota", "5", "--agreed-share", "0.4", "--config", "quotas.yaml", *judges)
    assert "--config is given" in str(done.exception)
    write(place / "train.jsonl", [{"question": "无关"}])
    (place / "q.yaml").write_text("quotas: {偏见歧视: 5}\nagreed_share: 0.4\nseed: 3\n", encoding="utf-8")
    done = select(call, "--config", "q.yaml", *judges)
    assert done.exit_code == 0
    told = json.loads((place / "hard.select.json").read_text("utf-8"))
    assert [(judge["name"], judge["guard"]["model"], judge["guard"]["threshold"]) for judge in told["judges"]] == [
        ("one", "m1", 0.5),
        ("two", "m2", 0.3),
    ]
    assert (told["rows"], told["settings"]["seed"], told["settings"]["agreed_share"]) == (5, 3, 0.4)
    assert told["settings"]["quotas"] == {"Bias and Discrimination": 5}
    assert told["data"] == {"name": "rows.jsonl", "sha256": file_hash(place / "rows.jsonl")}
    assert told["rows_sha256"] == file_hash(place / "hard.jsonl")
    assert told["filled"][0] == {
        "scenario": "Bias and Discrimination", "source": "*", "wanted": 5, "hard": 3, "agreed": 2,
    }  # fmt: skip
    assert {"command", "libra_guard", "python"} < set(told)
    assert all(int(name) % 2 == 0 for name in told["agreed"])

    assert make_round(call).exit_code == 0
    assert (place / "round" / "select.json").read_bytes() == (place / "hard.select.json").read_bytes()
    call("bench", "collect", "round", *(fill(person, lambda row: "安全") for person in "甲乙丙"))
    call("bench", "agree", "round")
    done = call("bench", "release", "round", "--out", "out")
    assert "5 rows have no reason: their analyze is empty" in done.stderr
    card = (place / "out" / "README.md").read_text("utf-8")
    for needed in (
        "| one | mini | m1 | – | 0.5 |",
        "| two | libra | m2 | – | 0.3 |",
        "on 3 of\nthose released",
        "on 2 they agreed",
    ):
        assert needed in card, needed

    # Rows changed by hand are not those that were selected.
    rows = (place / "hard.jsonl").read_text("utf-8").splitlines(keepends=True)
    (place / "hard.jsonl").write_text("".join(rows[1:]), encoding="utf-8")
    done = make_round(call, "--out", "other")
    assert done.exit_code == 1
    assert "hard.select.json: of other rows than hard.jsonl has now" in done.stderr
    assert not (place / "other" / "select.json").exists()


def test_judges_of_a_pipeline_come_to_the_card(place: Path, call: Call) -> None:
    seats = {"a": ("judge", "mini"), "b": ("judge", "words"), "c": ("arbiter", "libra")}
    told = [
        {"seat": seat, "name": name, "guard": guard, "model": f"{guard}-1"} for name, (seat, guard) in seats.items()
    ]
    (place / "run" / "stage2").mkdir(parents=True)
    (place / "run" / "card.json").write_text(json.dumps({"sitting": told}), encoding="utf-8")
    (place / "run" / "README.md").touch()
    (place / "rows.jsonl").rename(place / "run" / "stage2" / "train.jsonl")
    for data in ("run", "run/stage2", "run/stage2/train.jsonl"):
        done = call("bench", "select", "--data", data, "--out", "hard.jsonl", "--config", "quotas.yaml")
        assert done.exit_code == 0, data
        assert json.loads((place / "hard.select.json").read_text("utf-8"))["judges"] == [
            {"name": "a", "guard": {"guard": "mini", "model": "mini-1"}},
            {"name": "b", "guard": {"guard": "words", "model": "words-1"}},
        ]
    assert "| a | mini | mini-1 | – | – |" in released_card(place, call)


def test_of_a_model_on_this_machine_the_card_tells_the_name_and_the_hash(place: Path, call: Call) -> None:
    judges = judged(place, "one", "安全", guard="words", model="/home/me/lists/w.txt", model_hash="sha256:01")
    judges += judged(place, "two", "不安全", guard="ngram", model="models/gram/", model_hash="sha256:02")
    judges += judged(place, "three", "不安全", guard="libra", model="caskcsg/Libra-Guard")
    select(call, "--config", "quotas.yaml", *judges)
    card = released_card(place, call)
    for needed in (
        "| one | words | w.txt | sha256:01 | – |",
        "| two | ngram | gram | sha256:02 | – |",
        "| three | libra | caskcsg/Libra-Guard | – | – |",
    ):
        assert needed in card, needed
    assert "home/me" not in card


def test_of_a_pipelines_judge_it_tells_them_too(place: Path, call: Call) -> None:
    told = [
        {"seat": "judge", "name": "a", "guard": "words", "backend": "none", "model": "w.txt", "hash": "sha256:01"},
        {"seat": "judge", "name": "b", "guard": "mini", "backend": "onnx", "model": "", "hash": "sha256:02"},
    ]
    (place / "card.json").write_text(json.dumps({"sitting": told}), encoding="utf-8")
    select(call, "--config", "quotas.yaml")
    card = released_card(place, call)
    assert "| a | words | w.txt | sha256:01 | – |" in card
    assert "| b | mini | – | sha256:02 | – |" in card


def test_the_card_says_of_which_judges_nothing_is_known(place: Path, call: Call) -> None:
    select(call, "--config", "quotas.yaml")
    card = released_card(place, call)
    assert "| a | – | – | – | – |" in card
    assert "Of a judge without a guard nothing is known but the name at its votes." in card


def released_card(place: Path, call: Call) -> str:
    """Of the rows selected, which everyone calls safe."""
    make_round(call)
    call("bench", "collect", "round", *(fill(person, lambda row: "安全") for person in "甲乙丙"))
    call("bench", "agree", "round", "--resamples", "0")
    call("bench", "release", "round", "--out", "out")
    return (place / "out" / "README.md").read_text("utf-8")


def test_rows_of_no_scenario_are_told_and_no_fault(place: Path, call: Call) -> None:
    with (place / "rows.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"id": "e", "category_name": "", "question": "怎么泡茶", "response": "先烧水。"}\n')
    done = select(call, "--config", "quotas.yaml")
    assert done.exit_code == 0
    assert "1 rows are of no scenario, as everyday questions are: no quota asks for them" in done.stderr
    assert (place / "hard.rejects.jsonl").read_text("utf-8") == ""


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"threshold": 0.5}, {"threshold": 0.5}, "one and two are one guard (mini m): the same judge twice"),
        ({"threshold": 0.5}, {"threshold": 0.3}, "one and two are one guard (mini m): another threshold, scale"),
        (
            {"model_hash": "a"},
            {"model_hash": "a", "model": "elsewhere/m", "device": "cuda"},
            "another threshold, scale",
        ),
        ({"model_hash": "a"}, {"model_hash": "b"}, ""),
        ({"model": "m1"}, {"model": "m2"}, ""),
    ],
)
def test_one_guard_twice_is_told(
    place: Path, call: Call, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    usual = {"guard": "mini", "model": "m"}
    judges = [judged(place, name, label, **usual | more) for name, label, more in (
        ("one", "安全", first), ("two", "不安全", second)
    )]  # fmt: skip
    done = select(call, "--config", "quotas.yaml", *judges[0], *judges[1])
    assert message in done.stderr
    assert done.exit_code == (1 if message else 0)
    assert message or "one guard" not in done.stderr
