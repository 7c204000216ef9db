"""libra calibrate: wrong use first, then the whole way: judge, calibrate, judge with what was fitted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from libra_guard import Conversation, load_guard
from libra_guard.errors import DataError, UsageError

Call = Callable[..., Result]
MINI = Path(__file__).parents[2] / "examples" / "libra-mini.json"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libra-mini as the bundled guard judges it."""
    from typer.testing import CliRunner

    from libra_guard.cli.main import app

    out = tmp_path_factory.mktemp("runs") / "mini"
    assert CliRunner().invoke(app, ["infer", "--data", str(MINI), "--out", str(out)]).exit_code == 0
    return out


@pytest.fixture
def calibrate(call: Call, judged: Path, tmp_path: Path) -> Call:
    """``libra calibrate`` of that run, into ``c.json``."""

    def run(*arguments: str) -> Result:
        usual = ["--predictions", str(judged), "--labels", str(MINI), "--out", str(tmp_path / "c.json")]
        return call("calibrate", *usual, *arguments)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "--method is one of temperature, platt, isotonic, none, not 'magic'"),
        (["--false-positives", "0.1", "--recall", "0.9"], "not for both"),
        (["--test-labels", "x"], "--test-predictions and --test-labels are given together"),
        (["--predictions", "none"], "none: no such file or folder"),
        (["--labels", "none.json"], "none.json"),
    ],
)
def test_wrong_use_writes_nothing(calibrate: Call, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = calibrate(*arguments)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("arguments", [["--recall", "1.5"], ["--false-positives", "-1"], ["--seed", "-1"]])
def test_impossible_numbers_exit_2(calibrate: Call, arguments: list[str]) -> None:
    assert calibrate(*arguments).exit_code == 2


def test_a_goal_that_cannot_be_met_writes_nothing(calibrate: Call, judged: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (judged / "0-of-1.jsonl").read_text("utf-8").splitlines()]
    max(rows, key=lambda row: row["verdict"]["unsafe_score"])["label"] = "安全"
    (tmp_path / "labels.json").write_text(json.dumps(rows), encoding="utf-8")
    done = calibrate("--labels", str(tmp_path / "labels.json"), "--false-positives", "0")
    assert isinstance(done.exception, DataError)
    assert "at most 0.00% false positives; the nearest has a recall of" in str(done.exception)
    assert not (tmp_path / "c.json").exists()


def test_what_is_no_calibration_is_not_replaced(calibrate: Call, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}", encoding="utf-8")
    assert isinstance(calibrate().exception, UsageError)
    assert (tmp_path / "c.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_whole_way(calibrate: Call, call: Call, judged: Path, tmp_path: Path, method: str) -> None:
    done = calibrate("--method", method, "--false-positives", "0.1")
    assert done.exit_code == 0
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["n", "ECE", "Accuracy", "F1-Unsafe", "F1-Safe", "FPR", "Recall"]
    assert [row.split("  ")[0] for row in rows] == ["before", "after, cross-validated", "after, in sample"]
    path = tmp_path / "c.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    threshold = written["response"]["threshold"]
    assert done.stderr.endswith(f"{path}: unsafe from {threshold:.6g} on\n")

    out = tmp_path / "calibrated"
    again = call("infer", "--data", str(MINI), "--out", str(out), "--set", f"calibration={path}")
    assert again.exit_code == 0
    verdicts = [json.loads(line)["verdict"] for line in (out / "0-of-1.jsonl").read_text("utf-8").splitlines()]
    assert all((v["unsafe_score"] >= threshold) == (v["label"] == "不安全") for v in verdicts)
    record = json.loads((out / "run.json").read_text("utf-8"))["guard"]
    assert record["calibration"]["thresholds"]["response"] == record["threshold"] == threshold
    # Judged anew, every row is what the table said of it.
    measured = written["provenance"]["response"]["measured"]["after, in sample"]
    scored = call("evaluate", "--predictions", str(out), "--labels", str(MINI), "--format", "json", "--bootstrap", "0")
    overall = json.loads(scored.stdout)["overall"]
    names = ("ece", "accuracy", "f1_unsafe", "false_positive_rate", "recall_unsafe")
    assert {n: overall[n] for n in names} == {n: measured[n] for n in names}
    assert overall["false_positive_rate"] <= 0.1

    refused = call("calibrate", "--predictions", str(out), "--labels", str(MINI), "--out", str(tmp_path / "d.json"))
    assert "judged with a calibration" in str(refused.exception)


def test_a_threshold_of_one_s_own_goes_before(calibrate: Call, tmp_path: Path) -> None:
    assert calibrate().exit_code == 0
    pair = Conversation.from_pair("如何泡茶？", "水温八十度。")
    guard = load_guard("mini", calibration=str(tmp_path / "c.json"), threshold=0.9)
    (verdict,), (raw,) = guard.judge([pair]), load_guard("mini").judge([pair])
    assert guard.threshold_for(pair.target) == 0.9
    assert verdict.unsafe_score != raw.unsafe_score


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        # What is met in sample is hardly so elsewhere.
        (["--false-positives", "0"], r"cross-validated, (\d+\.\d\d)% of the safe rows are flagged, and not 0\.00%"),
        (["--recall", "0.95"], r"cross-validated, (\d+\.\d\d)% of the unsafe rows are found, and not 95\.00%"),
    ],
)
def test_a_goal_that_is_missed_on_other_questions_is_told(
    calibrate: Call, tmp_path: Path, goal: list[str], message: str
) -> None:
    done = calibrate("--method", "isotonic", *goal)
    assert done.exit_code == 0
    measured = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["provenance"]["response"]["measured"]
    found = measured["after, cross-validated"]
    missed = re.search(message, done.stderr)
    assert missed is not None
    share = found["false_positive_rate"] if goal[0] == "--false-positives" else found["recall_unsafe"]
    assert missed[1] == f"{share:.2%}"[:-1]


def test_a_folder_is_no_file(calibrate: Call, tmp_path: Path) -> None:
    done = calibrate("--out", str(tmp_path))
    assert done.exit_code == 2
    assert "is a directory" in " ".join(done.stderr.split())


def test_what_was_passed_over_is_told_and_nothing_odd(calibrate: Call, judged: Path, tmp_path: Path) -> None:
    runs, labels = [tmp_path / "run", tmp_path / "test"], tmp_path / "labels"
    for folder in runs:
        shutil.copytree(judged, folder)
        shutil.copy(judged / "run.json", folder / "old.json")
    labels.mkdir()
    shutil.copy(MINI, labels / "rows.json")
    (labels / "more.tsv").touch()
    rows = [json.loads(line) for line in (runs[1] / "0-of-1.jsonl").read_text("utf-8").splitlines()]
    others = "".join(json.dumps({**row, "question": f"另一问：{row['question']}"}) + "\n" for row in rows)
    for path in (runs[1] / "0-of-1.jsonl", tmp_path / "test.jsonl"):
        path.write_text(others, encoding="utf-8")
    test = ("--test-predictions", str(runs[1]), "--test-labels", str(tmp_path / "test.jsonl"))
    done = calibrate("--predictions", str(runs[0]), "--labels", str(labels), *test)
    old = "; ".join(str(folder / "old.json") for folder in runs)
    assert f"2 files that hold no predictions: passed over ({old})\n" in done.stderr
    assert f"1 files or folders in {labels} that are no " in done.stderr
    assert "passed over (more.tsv)\n" in done.stderr
    alone = calibrate("--predictions", str(runs[0]), "--labels", str(labels))
    assert (alone.exit_code, "passed over" in alone.stderr) == (0, True)


def test_something_left_out_exits_1_and_is_told(calibrate: Call, tmp_path: Path) -> None:
    rows = json.loads(MINI.read_text(encoding="utf-8"))
    (tmp_path / "labels.json").write_text(json.dumps(rows[:-1]), encoding="utf-8")
    done = calibrate("--labels", str(tmp_path / "labels.json"))
    assert done.exit_code == 1
    assert "1 predictions without a label" in done.stderr
    assert (tmp_path / "c.json").exists()
