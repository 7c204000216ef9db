import json

import pytest
import typer
from typer.testing import CliRunner

from libra_guard.cli.evaluate import evaluate
from libra_guard.errors import DataError, UsageError

app = typer.Typer()
app.command()(evaluate)

ROWS = [("A", "不安全", "不安全"), ("A", "安全", "安全"), ("B", "安全", "不安全"), ("B", "不安全", None)]


@pytest.fixture
def files(tmp_path):
    labels, predictions = [], []
    for number, (source, label, predicted) in enumerate(ROWS):
        row = {"id": number, "question": f"问{number}", "response": "答"}
        labels.append(row | {"source": source, "category_name": "x", "label": label})
        score = {"不安全": 0.8, "安全": 0.3, None: None}[predicted]
        verdict = {"label": predicted, "valid": predicted is not None, "unsafe_score": score}
        predictions.append(row | {"critic": "", "verdict": verdict})
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "0-of-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions), "utf-8")
    (tmp_path / "labels.json").write_text(json.dumps(labels), "utf-8")
    return tmp_path


def call(files, *options, predictions="p"):
    given = ["--predictions", str(files / predictions), "--labels", str(files / "labels.json"), "--bootstrap", "100"]
    return CliRunner().invoke(app, [*given, *options])


def test_what_was_passed_over_in_a_folder_of_labels_is_told(files):
    labels = files / "labels"
    labels.mkdir()
    (files / "labels.json").rename(labels / "rows.json")
    (labels / "more.tsv").touch()
    done = call(files, "--labels", str(labels))
    assert (done.exit_code, f"1 files or folders in {labels} that are no " in done.stderr) == (0, True)
    assert "passed over (more.tsv)\n" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "xml"),
        ("--threshold", "1.5"),
        ("--threshold", "x"),
        ("--bootstrap", "-1"),
        ("--seed", "-1"),
        ("--unreadable", "no"),
    ],
)
def test_wrong_use_exits_2(files, options):
    done = call(files, *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert options[0] in done.stderr


def test_shards_of_several_runs_exit_1(files):
    for rank in (0, 1):
        record = {"guard": {"guard": "mini", "threshold": 0.5 + rank / 10}}
        (files / "p" / f"run-{rank}-of-2.json").write_text(json.dumps(record), "utf-8")
    done = call(files)
    assert done.exit_code == 1
    assert "shard 1-of-2 is of another run than 0-of-2 (guard.threshold 0.5 → 0.6)" in done.stderr


def test_required_options_exit_2():
    assert CliRunner().invoke(app, []).exit_code == 2


def test_errors_for_people_reach_the_caller(files):
    assert isinstance(call(files, predictions="none").exception, UsageError)
    (files / "q.jsonl").write_text("{}", "utf-8")
    assert isinstance(call(files, predictions="q.jsonl").exception, DataError)


def test_stdout_is_data(files):
    done = call(files, "--format", "json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {"accuracy", "f1_safe", "f1_unsafe"} <= set(found["sources"]["A"]) & set(found["average"])
    assert found["unreadable"] == 1
    assert done.stderr.splitlines()[-1] == "4 rows scored, 1 unreadable (counted as: flagged)"


@pytest.mark.parametrize(
    ("options", "accuracy"),
    [
        ((), 0.75),
        (("--unreadable", "wrong"), 0.5),
        (("--unreadable", "skip"), 0.5),
        (("--threshold", "0.9"), 0.75),
        (("--threshold", "0.1"), 0.5),
    ],
)
def test_options_reach_the_scores(files, options, accuracy):
    found = json.loads(call(files, "--format", "json", *options).stdout)
    assert found["average"]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(("reading", "accuracy"), [("unsafe", 1.0), ("safe", 0.5)])
def test_controversial(files, reading, accuracy):
    path = files / "p" / "0-of-1.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows[0]["verdict"]["label"] = "有争议"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    found = json.loads(call(files, "--format", "json", "--controversial", reading).stdout)
    assert found["sources"]["A"]["accuracy"] == accuracy


def test_something_missing_exits_1_and_is_told_on_stderr(files):
    path = files / "p" / "0-of-1.jsonl"
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[:3]), "utf-8")
    done = call(files)
    assert done.exit_code == 1
    assert "1 labels without a prediction (id 3)" in done.stderr
    assert "without a prediction" not in done.stdout


@pytest.mark.parametrize("form", ["csv", "latex", "md", "table"])
def test_a_comparison_is_told_whatever_the_form(files, form):
    done = call(files, "--format", form, "--compare", str(files / "p"))
    assert done.exit_code == 0
    told, data = (done.stderr, done.stdout) if form in ("csv", "latex") else (done.stdout, done.stderr)
    assert "McNemar" in told
    assert "McNemar" not in data


def test_out_writes_the_file_and_nothing_to_stdout(files):
    done = call(files, "--format", "md", "--out", str(files / "new" / "report.md"))
    assert (done.exit_code, done.stdout) == (0, "")
    assert (files / "new" / "report.md").read_text("utf-8") == call(files, "--format", "md").stdout


def test_label_field(files):
    (files / "p" / "run.json").write_text(json.dumps({"fields": {"target": "prompt"}}), "utf-8")
    refused = call(files)
    assert isinstance(refused.exception, UsageError)
    assert "--label-field" in str(refused.exception)
    rows = json.loads((files / "labels.json").read_text("utf-8"))
    (files / "labels.json").write_text(json.dumps([row | {"asked": row.pop("label")} for row in rows]), "utf-8")
    done = call(files, "--label-field", "asked")
    assert done.exit_code == 0
    assert "4 rows scored" in done.stderr


def test_one_label_alone_is_told_on_stderr(files):
    rows = json.loads((files / "labels.json").read_text("utf-8"))
    (files / "labels.json").write_text(json.dumps([row | {"source": "A", "label": "安全"} for row in rows]), "utf-8")
    done = call(files)
    assert done.exit_code == 0
    assert "source A: all rows are 安全: no AUC" in done.stderr
    assert "all rows are" not in done.stdout


@pytest.mark.parametrize("out", ["labels.json", "p/0-of-1.jsonl", "p/run.json", "p/rejects.jsonl", "q.jsonl"])
def test_what_is_read_is_not_written_over(files, out):
    (files / "p" / "run.json").write_text('{"guard": {"guard": "mini"}}', "utf-8")
    (files / "p" / "rejects.jsonl").write_text('{"file": "a", "line": 1, "number": 1, "reason": "x"}', "utf-8")
    (files / "q.jsonl").write_bytes((files / "p" / "0-of-1.jsonl").read_bytes())
    before = (files / out).read_bytes()
    done = call(files, "--format", "json", "--compare", str(files / "q.jsonl"), "--out", str(files / out))
    assert isinstance(done.exception, UsageError)
    assert "is read, and would be written over: choose another --out" in str(done.exception)
    assert (files / out).read_bytes() == before


@pytest.mark.parametrize(("form", "name"), [("json", "scores.json"), ("md", "scores.md"), ("csv", "scores.csv")])
def test_a_report_beside_the_predictions_counts_for_none(files, form, name):
    out = files / "p" / name
    first = call(files, "--format", form, "--out", str(out))
    before = out.read_bytes()
    again = call(files, "--format", form, "--out", str(out))
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert again.stderr.splitlines()[-1] == "4 rows scored, 1 unreadable (counted as: flagged)"
    assert (f"passed over ({out})" in again.stderr) == (name != "scores.md")
    if form == "json":
        before, after = ({**json.loads(text), "passed_over": []} for text in (before, out.read_bytes()))
        assert before == after


@pytest.mark.parametrize(
    ("form", "name"), [("csv", "scores.json"), ("json", "scores.jsonl"), ("json", "scores.json.gz")]
)
def test_a_report_that_would_be_read_as_predictions_is_refused(files, form, name):
    done = call(files, "--format", form, "--out", str(files / "p" / name))
    assert isinstance(done.exception, UsageError)
    assert "would be read as predictions by the next call" in str(done.exception)
    assert not (files / "p" / name).exists()
    assert call(files, "--format", form, "--out", str(files / name)).exit_code == 0
