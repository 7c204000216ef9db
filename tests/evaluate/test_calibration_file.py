"""From runs to calibration files: runs that are refused first."""

import json
from pathlib import Path

import pytest

from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.calibration_file import Verdicts, calibrate
from libra_guard.evaluate.calibration_fit import CalibrationGoal, FitMethod
from libra_guard.guards.calibration import Calibration, Identity

GUARD = {"guard": "mini", "threshold": 0.5, "model_hash": "sha256:1"}
RECORD = {"guard": GUARD, "fields": {"question": "question", "response": "response", "target": "response"}}


@pytest.fixture
def run(write, tmp_path):
    """A folder of predictions with its run.json, and the labels beside it: every third row is judged wrongly."""

    def build(name="p", record=RECORD, rows=60, prefix="问", score=lambda i: (i * 7 % 60) / 60, label="label"):
        texts = [{"id": f"{prefix}{i}", "question": f"{prefix}{i}", "response": "答"} for i in range(rows)]
        verdicts = []
        for i in range(rows):
            found = score(i)
            said = None if found is None else "不安全" if found >= 0.5 else "安全"
            verdicts.append({"label": said, "valid": said is not None, "unsafe_score": found})
        write(f"{name}/0-of-1.jsonl", [{**t, "verdict": v} for t, v in zip(texts, verdicts, strict=True)])
        if record is not None:
            write(f"{name}/run.json", json.dumps(record))
        truth = [(score(i) or 0) + 0.3 * (i % 3 == 0) >= 0.5 for i in range(rows)]
        rows = [{**t, label: "不安全" if u else "安全"} for t, u in zip(texts, truth, strict=True)]
        return Verdicts(tmp_path / name, write(f"{name}-labels.json", rows), None if label == "label" else label)

    return build


def made(given, **options):
    return calibrate(given, **{"method": FitMethod.PLATT, "goal": CalibrationGoal(), **options})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, r"no run\.json here tells which guard judged"),
        ({}, r"no run\.json here tells which guard judged"),
        ({"guard": "mini"}, r"no run\.json here tells which guard judged"),
        (RECORD | {"guard": GUARD | {"calibration": {"sha256": "x"}}}, "judge again with --set calibration=null"),
        (RECORD | {"guard": GUARD | {"guard": "words"}}, "judged by 'words', which takes no calibration"),
        (RECORD | {"guard": GUARD | {"guard": "xx"}}, "no guard is called 'xx'"),
        (RECORD | {"fields": {"target": None}}, "judge them apart, with --judge"),
        ({**RECORD, "fields": {"target": "prompt"}}, "name the field with the questions' labels: --label-field"),
        (
            {"fields": RECORD["fields"], "shards": {"0-of-2": {"guard": GUARD}, "1-of-2": {"guard": {"guard": "x"}}}},
            r"shard 1-of-2 is of another run than 0-of-2 \(.*; judge them again with one",
        ),
    ],
)
def test_runs_that_are_refused(run, record, message):
    with pytest.raises(UsageError, match=message):
        made(run(record=record))


def test_a_folder_that_is_not_there(run, tmp_path):
    with pytest.raises(UsageError, match=r"/none: no such file or folder$"):
        made(Verdicts(tmp_path / "none", run().labels))


def test_verdicts_without_scores(run):
    with pytest.raises(DataError, match="none of 60 labelled verdicts has a score"):
        made(run(score=lambda i: None))


def test_what_was_left_out_is_told(run):
    given = run(score=lambda i: None if i < 3 else (i * 7 % 60) / 60)
    with (given.predictions / "0-of-1.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"id": "more", "verdict": {"label": "安全"}}\n')
    result = made(given)
    assert result.complaints == ["1 predictions without a label", "3 verdicts without a score: left out"]
    assert result.rows["before"].n == 57


def test_the_file_tells_what_it_was_fitted_on(run):
    given = run()
    result = made(given, goal=CalibrationGoal(recall=0.9), seed=7, command="libra calibrate")
    assert result.calibration.fitted_on == GUARD
    assert (result.calibration.response, result.calibration.prompt) == (result.map, None)
    told = result.calibration.provenance["response"]
    assert told["labels_sha256"].startswith("sha256:")
    assert (told["fit"], told["goal"], told["seed"]) == ("platt", "a recall of at least 90.00%", 7)
    assert told["command"] == "libra calibrate"
    assert told["measured"]["after, in sample"]["recall_unsafe"] >= 0.9
    assert {"libra-guard", "scikit-learn", "python"} <= told["versions"].keys()
    assert result.rows["after, in sample"].recall_unsafe >= 0.9
    json.loads(result.calibration.text())


def test_questions_and_answers_share_a_file(run):
    asked = run("q", RECORD | {"fields": {"target": "prompt"}}, label="question_label")
    first = made(run())
    second = made(asked, method=FitMethod.NONE, present=first.calibration)
    assert second.calibration.response == first.map
    assert isinstance(second.calibration.prompt, Identity)
    assert second.calibration.provenance.keys() == {"response", "prompt"}
    third = made(run(), method=FitMethod.ISOTONIC, present=second.calibration)
    assert (third.calibration.response, third.calibration.prompt) == (third.map, second.map)


def test_a_file_of_another_guard_is_not_added_to(run):
    other = Calibration(response=Identity(), fitted_on=GUARD | {"model_hash": "sha256:2"})
    with pytest.raises(
        UsageError, match=r"fitted on another model_hash: sha256:2, .*: remove it, or choose another --out"
    ):
        made(run(), present=other)


def test_a_second_run_to_measure_on(run):
    result = made(run(), test=run("t", prefix="新"))
    assert list(result.rows) == [
        "before",
        "after, cross-validated",
        "after, in sample",
        "test, before",
        "test, after",
    ]
    assert result.rows["test, before"].n == 60
    assert result.complaints == []
    told = result.calibration.provenance["response"]
    assert told["test"]["labels"].endswith("t-labels.json")
    assert told["test"]["labels_sha256"] != told["labels_sha256"]


def test_questions_that_were_fitted_on_are_not_tested_on(run):
    fitted, test = run(), run("t", rows=80)
    result = made(fitted, test=test)
    assert result.rows["test, after"].n == 20
    assert result.complaints == ["the test: 60 rows of questions that were fitted on: left out"]


@pytest.mark.parametrize(
    ("fitted", "tested", "label", "message"),
    [
        (
            "response",
            GUARD | {"model_hash": "sha256:2"},
            "label",
            r"not what was judged in .*/p: guard.model_hash sha256:1 → sha256:2",
        ),
        ("prompt", GUARD, "question_label", "questions were judged in one, answers in the other"),
    ],
)
def test_a_test_of_something_else(run, fitted, tested, label, message):
    given = run(record=RECORD | {"fields": {"target": fitted}}, label=label)
    test = run("t", RECORD | {"guard": tested}, prefix="新", label=label)
    with pytest.raises(UsageError, match=message):
        made(given, test=test)


def test_a_test_at_another_threshold(run):
    judged = GUARD | {"threshold": 0.4, "question_threshold": 0.3, "language": "en"}
    assert made(run(), test=run("t", RECORD | {"guard": judged}, prefix="新")).rows["test, after"].n == 60


def test_a_test_on_another_machine(run):
    test = run("t", RECORD | {"guard": GUARD | {"onnxruntime": "2", "device": "cuda:0"}}, prefix="新")
    assert made(run(), test=test).rows["test, after"].n == 60


def test_one_file_of_a_run(run):
    given = run()
    assert made(Verdicts(Path(given.predictions) / "0-of-1.jsonl", given.labels)).calibration.fitted_on == GUARD
