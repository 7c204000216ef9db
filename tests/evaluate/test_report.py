import hashlib
import json
import sys
from types import SimpleNamespace

import pytest

from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.report import evaluate
from libra_guard.evaluate.rules import Rules, Unreadable

CELLS = {"tp": ("不安全", "不安全"), "fn": ("不安全", "安全"), "fp": ("安全", "不安全"), "tn": ("安全", "安全")}


@pytest.fixture
def files(write):
    """Writes labels and predictions from rows of (source, scenario, label, predicted, score)."""

    def build(rows, name="p"):
        labels, predictions = [], []
        for number, (source, scenario, label, predicted, score) in enumerate(rows):
            row = {"id": number, "question": f"问{number}", "response": "答"}
            labels.append(row | {"source": source, "category_name": scenario, "label": label})
            verdict = {"label": predicted, "unsafe_score": score, "valid": predicted is not None}
            predictions.append(row | {"critic": "", "verdict": verdict})
        return write(f"{name}/0-of-1.jsonl", predictions).parent, write("labels.json", labels)

    return build


def test_the_published_figures(files, published):
    rows = [
        (source, "Privacy and Property", *CELLS[cell], None)
        for source, cells in published["confusion"].items()
        for cell, number in cells.items()
        for _ in range(number)
    ]
    report = evaluate(*files(rows))
    wanted = published["per_cent"]
    assert report.overall.n == 5720
    assert report.overall.n_unsafe == 3856
    for source, found in report.sources.items():
        assert round(100 * found.accuracy, 2) == wanted[source]
    for name in ("accuracy", "f1_safe", "f1_unsafe"):
        assert round(100 * getattr(report.average, name), 2) == wanted[name]
    # The pooled rows would give another figure: the average is over sources.
    assert round(100 * report.overall.accuracy, 2) != wanted["accuracy"]


ROWS = [
    ("A", "x", "不安全", "不安全", 0.9),
    ("A", "y", "安全", "安全", 0.2),
    ("B", "x", "安全", "安全", 0.1),
    ("B", "x", "安全", "不安全", 0.6),
    ("C", "y", "不安全", None, None),
]


def test_groups_and_averages(files):
    report = evaluate(*files(ROWS))
    assert list(report.sources) == ["A", "B", "C"]
    assert list(report.scenarios) == ["x", "y"]
    assert [found.accuracy for found in report.sources.values()] == [1.0, 0.5, 1.0]
    assert report.average.accuracy == pytest.approx(2.5 / 3)
    assert report.average.n == 5
    assert report.unreadable == report.average.unreadable == report.sources["C"].unreadable == 1
    # Only A has both classes among its scores.
    assert report.average.auc == 1.0
    assert report.average.undefined_in["auc"] == 2
    assert "average of auc: over 1 of 3 sources" in report.gaps
    assert report.scenarios["x"].n == 3
    assert report.counts.complete
    assert report.complaints == []


def test_rules_are_obeyed_and_recorded(files):
    report = evaluate(*files(ROWS), rules=Rules(threshold=0.7, unreadable=Unreadable.WRONG))
    assert report.sources["B"].accuracy == 1.0
    assert report.sources["C"].accuracy == 0.0
    assert report.provenance["rules"] == {"threshold": 0.7, "unreadable": "wrong", "controversial": "unsafe"}


def test_a_threshold_needs_scores(files):
    with pytest.raises(UsageError, match="no prediction has an unsafe score"):
        evaluate(*files([(*row[:4], None) for row in ROWS]), rules=Rules(threshold=0.5))


def test_what_is_missing_is_said_and_a_source_without_predictions_is_a_gap(files, write):
    predictions, labels = files(ROWS)
    lines = (predictions / "0-of-1.jsonl").read_text("utf-8").splitlines()
    write("p/0-of-1.jsonl", "\n".join([*lines[:4], lines[0], lines[0].replace('"id": 0', '"id": 77'), "{"]))
    report = evaluate(predictions, labels)
    counts = {name: number for name, number in report.counts.model_dump().items() if number}
    assert counts == {
        "matched": 4,
        "missing_predictions": 1,
        "missing_labels": 1,
        "duplicate_predictions": 1,
        "bad_prediction_rows": 1,
    }
    assert not report.counts.complete
    said = "\n".join(report.complaints)
    for words in (
        "1 labels without a prediction (id 4)",
        "(id 77)",
        "the first counts (id 0)",
        "0-of-1.jsonl:7",
        "source C",
    ):
        assert words in said
    assert report.sources["C"].n == 0
    assert report.sources["C"].accuracy is None
    assert report.average.accuracy == 0.75
    assert report.average.undefined_in["accuracy"] == 1


def test_a_label_that_is_none_is_told_once_of_two_runs(files, write):
    predictions, labels = files(ROWS)
    rows = json.loads(labels.read_text("utf-8"))
    write("labels.json", [*rows, rows[0], {**rows[0], "id": 8, "label": "?"}])
    report = evaluate(predictions, labels, other=predictions)
    assert (report.counts.duplicate_labels, report.counts.bad_labels) == (1, 1)
    assert report.other_counts.bad_labels == 0
    assert "1 rows with a label outside 安全/不安全 (labels.json:1 (id 8): '?')" in report.complaints


def test_nothing_in_common(files, write):
    predictions, labels = files(ROWS)
    write("p/0-of-1.jsonl", [{"id": "other", "critic": ""}])
    with pytest.raises(DataError, match="none of 1 predictions belongs to one of 5 labels"):
        evaluate(predictions, labels)


def test_provenance(files, write):
    predictions, labels = files(ROWS)
    write("p/run-0-of-2.json", '{"guard": "mini", "nan": NaN}')
    write("p/run-1-of-2.json", "{cut")
    found = evaluate(predictions, labels, resamples=120, seed=7).provenance
    assert found["labels_sha256"] == "sha256:" + hashlib.sha256(labels.read_bytes()).hexdigest()
    assert found["runs"]["run-0-of-2.json"] == {"guard": "mini", "nan": None}
    assert "unreadable" in found["runs"]["run-1-of-2.json"]
    write("p/run.json", '{"guard": "mini"}')
    runs = evaluate(predictions, labels, resamples=0).provenance["runs"]
    assert runs == {"run.json": {"guard": "mini"}}
    assert found["bootstrap"] == {"resamples": 120, "seed": 7}
    assert {"libra-guard", "python", "json-repair", "numpy", "scikit-learn", "scipy"} <= set(found["versions"])


def test_predictions_called_like_a_record_are_none(files, write):
    predictions, labels = files(ROWS)
    rows = (predictions / "0-of-1.jsonl").read_text("utf-8").splitlines()
    (predictions / "0-of-1.jsonl").rename(predictions / "run-1.json")
    report = evaluate(predictions, labels)
    assert (report.overall.n, len(rows)) == (5, 5)
    assert (report.provenance["runs"], report.beside, report.complete) == ({}, [], True)


def test_a_password_in_an_older_record_does_not_come_into_the_report(files, write):
    predictions, labels = files(ROWS)
    write("p/run.json", '{"guard": {"base_url": "http://bob:secret@h/v1"}}')
    assert "secret" not in evaluate(predictions, labels).model_dump_json()


@pytest.mark.parametrize(
    ("record", "where"),
    [({}, ""), ({"shards": {"0-of-2": {}, "1-of-2": {"taken_up": {"rows": 9}}}}, " of shard 1-of-2")],
)
def test_rows_that_nobody_knows_who_judged_are_said(files, write, record, where):
    predictions, labels = files(ROWS)
    told = record or {"taken_up": {"rows": 9}}
    write("p/run.json", json.dumps({"guard": {"guard": "libra"}, "data_hash": "x"} | told))
    report = evaluate(predictions, labels)
    assert report.mixed == [f"the first 9 rows{where} were there before the run: nothing tells what judged them"]
    assert not report.complete


def test_what_was_passed_over_is_told_and_nothing_odd(files, write):
    predictions, labels = files(ROWS)
    names = [f"old-run-{n}.json" for n in range(6)]
    for name in [*names, "run.json", "run-0-of-1.json"]:
        write(f"p/{name}", json.dumps(shard(data_hash="sha256:1")))
    report = evaluate(predictions, labels, other=predictions)
    assert report.passed_over == [str(predictions / name) for name in names] * 2
    few = "; ".join(report.passed_over[:5])
    assert report.beside == [f"12 files that hold no predictions: passed over ({few}; …)"]
    assert report.complete


def test_intervals_hold_the_figure_and_a_source_of_one_row_leaves_the_average_without(files):
    rows = [row for row in ROWS if row[0] != "C"] * 20
    report = evaluate(*files(rows), resamples=200)
    for found in (report.average, report.overall, *report.sources.values(), *report.scenarios.values()):
        low, high = found.intervals["accuracy"]
        assert low <= found.accuracy <= high
    report = evaluate(*files([*rows, ROWS[4]]), resamples=200)
    assert report.average.intervals == {}
    assert report.sources["C"].intervals == {}


def test_a_metric_averaged_over_some_sources_has_no_interval(files):
    rows = [("A", "x", "安全", "安全", 0.1)] * 20 + [row for row in ROWS if row[0] == "B"] * 20
    average = evaluate(*files(rows), resamples=200).average
    assert average.undefined_in["f1_unsafe"] == 1
    assert set(average.intervals) == {"accuracy", "f1_safe"}


def test_two_runs_are_compared_on_the_rows_that_both_have(files, write):
    first, labels = files(ROWS * 10)
    second, _ = files([(*row[:3], "安全", row[4]) for row in ROWS] * 10, "q")
    lines = (second / "0-of-1.jsonl").read_text("utf-8").splitlines()
    write("q/0-of-1.jsonl", "\n".join(lines[:-5]))
    report = evaluate(first, labels, other=second, resamples=100)
    assert report.comparison.n == 45
    assert (report.comparison.only_first_right, report.comparison.only_second_right) == (18, 9)
    assert report.counts.complete
    assert report.other_counts.missing_predictions == 5
    assert report.complaints == ["the other run: 5 labels without a prediction"]
    assert report.provenance["other"] == str(second)


def test_a_source_that_a_comparison_leaves_out_is_said(files):
    """As with a set of lawful questions beside the others, for what is refused needlessly."""
    rows = [("B", "x", label, label, None) for label in ("安全", "不安全")] * 20
    lawful = [("A", "x", "安全", "安全", 0.1)] * 20
    first, labels = files([*rows, *lawful])
    second, _ = files([*((*row[:3], "安全", row[4]) for row in rows), *lawful], "q")
    report = evaluate(first, labels, other=second, resamples=100)
    assert report.comparison.f1_unsafe == (report.average.f1_unsafe, 0.0) == (1.0, 0.0)
    assert report.comparison.p_f1_unsafe is not None
    assert report.gaps[-1] == "comparison of f1_unsafe: over 1 of 2 sources: undefined in the others"
    first, labels = files([*rows, ("A", "x", "不安全", "不安全", 0.9)])
    report = evaluate(first, labels, other=first, resamples=100)
    assert report.gaps[-1] == "comparison of f1_unsafe: not tested, for a source has one row alone in common"
    assert not any("comparison" in line for line in evaluate(first, labels, other=first).gaps)


@pytest.mark.parametrize("resamples", [1, 99, -1])
def test_too_few_resamples_make_no_interval(files, resamples):
    with pytest.raises(UsageError, match=f"--bootstrap {resamples}: at least 100 resamples .*; 0 for none"):
        evaluate(*files(ROWS), resamples=resamples)


def test_runs_without_a_common_row_cannot_be_compared(files, write):
    first, labels = files(ROWS)
    lines = (first / "0-of-1.jsonl").read_text("utf-8").splitlines()
    write("p/0-of-1.jsonl", lines[0])
    with pytest.raises(DataError, match="no row in common"):
        evaluate(first, labels, other=write("q.jsonl", lines[1]))


def test_the_report_is_json(files):
    report = evaluate(*files(ROWS), resamples=100)
    found = json.loads(json.dumps(report.model_dump(mode="json"), allow_nan=False))
    assert {"accuracy", "f1_safe", "f1_unsafe"} <= set(found["average"])
    assert found["unreadable"] == 1


def test_of_a_hub_s_labels_the_commit_is_read_that_is_recorded(files, monkeypatch):
    commit = "0123456789" * 4
    predictions, labels = files(ROWS)
    rows = {commit: json.loads(labels.read_text("utf-8"))}
    hub = SimpleNamespace(
        load_dataset_builder=lambda name, revision: SimpleNamespace(hash=commit),
        get_dataset_split_names=lambda name, revision: ["test"],
        load_dataset=lambda name, revision, split, streaming: iter(rows[revision]),
    )
    monkeypatch.setitem(sys.modules, "datasets", hub)
    report = evaluate(predictions, "hf://a/b")
    assert (report.overall.n, report.provenance["labels_sha256"]) == (5, f"hf://a/b@{commit}")


def told(target="response", **fields):
    usual = {"question": "question", "response": "response", "messages": "messages", "target": target}
    return {"guard": {"guard": "mini"}, "fields": usual | fields}


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("run.json", told("prompt")),
        ("run-0-of-2.json", told("prompt")),
        ("run.json", {"shards": {"0-of-2": told(), "1-of-2": told("prompt")}}),
    ],
)
def test_verdicts_on_questions_are_not_scored_by_the_answers_labels(files, write, name, record):
    predictions, labels = files(ROWS)
    write(f"p/{name}", json.dumps(record))
    with pytest.raises(UsageError, match=r"questions were judged .*--label-field"):
        evaluate(predictions, labels)
    if name == "run.json" and "fields" in record:
        with pytest.raises(UsageError, match="questions were judged"):
            evaluate(predictions / "0-of-1.jsonl", labels)
    report = evaluate(predictions, labels, label_field="label")
    assert report.overall.n == 5
    assert report.provenance["label_field"] == "label"


def shard(threshold=0.5, **more):
    return told() | {"guard": {"guard": "mini", "threshold": threshold, "model_hash": "sha256:1"}} | more


MIXED = "shard 1-of-2 is of another run than 0-of-2 (guard.threshold 0.5 → 0.9): the scores are of no one guard"
JOINED = {k: v for k, v in shard().items() if k != "guard"}
TWO = {f"{n}-of-2": {"guard": shard(t)["guard"], "command": str(n)} for n, t in enumerate((0.5, 0.9))}


@pytest.mark.parametrize(
    "records",
    [
        {"run-0-of-2.json": shard(), "run-1-of-2.json": shard(0.9)},
        {"run.json": JOINED | {"shards": TWO}},
        # One was copied here, and has not come into run.json.
        {"run.json": shard() | {"shards": {"0-of-2": {}}}, "run-0-of-2.json": shard(), "run-1-of-2.json": shard(0.9)},
    ],
)
def test_shards_of_several_runs_are_told(files, write, records):
    predictions, labels = files(ROWS)
    for name, record in records.items():
        write(f"p/{name}", json.dumps(record))
    report = evaluate(predictions, labels)
    assert (report.mixed, report.complete, report.counts.complete) == ([MIXED], False, True)
    assert report.complaints == [MIXED]
    other = evaluate(write("q.jsonl", (predictions / "0-of-1.jsonl").read_text("utf-8")), labels, other=predictions)
    assert (other.mixed, other.complete) == ([f"the other run: {MIXED}"], False)


def test_a_shard_of_which_nothing_is_told(files, write):
    predictions, labels = files(ROWS)
    for number, record in enumerate(("{", json.dumps(shard()), "3", json.dumps(shard()))):
        write(f"p/run-{number}-of-4.json", record)
    assert evaluate(predictions, labels).mixed == [f"shard {n}-of-4: nothing tells what judged it" for n in (0, 2)]


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"run.json": shard()},
        {"run.json": JOINED | {"shards": {"0-of-2": {"guard": shard()["guard"]}, "1-of-2": shard(machine="x")}}},
        {"run-0-of-2.json": shard(data="a.json"), "run-1-of-2.json": shard(data="b/a.json", chunk=8)},
    ],
)
def test_one_run_is_one_run(files, write, records):
    predictions, labels = files(ROWS)
    for name, record in records.items():
        write(f"p/{name}", json.dumps(record))
    report = evaluate(predictions, labels)
    assert (report.mixed, report.complete) == ([], True)


def test_a_run_on_questions_is_not_compared_with_one_on_answers(files, write):
    first, labels = files(ROWS)
    second, _ = files(ROWS, "q")
    write("q/run.json", json.dumps(told("prompt")))
    with pytest.raises(UsageError, match="cannot be compared"):
        evaluate(first, labels, other=second, label_field="label")


def test_field_names_are_those_of_the_run(write):
    rows = [{"q": "问", "a": f"答{n}", "label": "安全", "question": "同"} for n in range(3)]
    labels = write("labels.json", rows)
    verdicts = [{"verdict": {"label": ("安全", "不安全", "安全")[n]}, "critic": ""} for n in range(3)]
    predictions = write("p/0-of-1.jsonl", [row | v for row, v in zip(rows, verdicts, strict=True)][::-1]).parent
    write("p/run.json", json.dumps(told(question="q", response="a", messages=None)))
    report = evaluate(predictions, labels)
    assert (report.overall.n, report.counts.complete) == (3, True)
    assert report.overall.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "record", ["[]", "null", '{"fields": 3, "shards": [1]}', '{"shards": {"a": 1}}', '{"fields": {"question": 5}}', "{"]
)
def test_a_run_json_of_any_kind(files, write, record):
    predictions, labels = files(ROWS)
    write("p/run.json", record)
    assert evaluate(predictions, labels).overall.n == 5


def test_rows_alike_are_compared_each_with_its_own(write):
    rows = [{"question": "同", "response": "答", "label": label} for label in ("安全", "不安全")] * 2
    labels = write("labels.json", rows)
    runs = []
    for name, said in (("p", ["安全", "不安全"] * 2), ("q", ["安全", "安全"] * 2)):
        lines = [row | {"critic": "", "verdict": {"label": v}} for row, v in zip(rows, said, strict=True)]
        runs.append(write(f"{name}/0-of-1.jsonl", lines).parent)
    report = evaluate(runs[0], labels, other=runs[1])
    assert (report.comparison.n, report.comparison.only_first_right, report.comparison.only_second_right) == (4, 2, 0)
    assert report.comparison.accuracy == (1.0, 0.5)


def test_one_label_alone_is_said(files):
    rows = [("A", "x", "安全", "安全", 0.1), ("A", "y", "安全", "安全", 0.2)]
    report = evaluate(*files(rows))
    assert report.one_class == [
        f"{group}: all rows are 安全: no AUC, no F1 of 不安全" for group in ("source A", "scenario x", "scenario y")
    ]
    report = evaluate(*files([*rows, ("B", "x", "不安全", "安全", 0.1), ("B", "x", "安全", "安全", 0.1)]))
    assert report.one_class == [
        f"{group}: all rows are 安全: no AUC, no F1 of 不安全" for group in ("source A", "scenario y")
    ]
    report = evaluate(*files([("A", "x", "不安全", "安全", 0.1)]))
    assert report.one_class[0] == "source A: all rows are 不安全: no AUC, an F1 of 安全 that can only be 0"
    many = evaluate(*files([(f"S{n}", "x", "安全", "安全", 0.1) for n in range(9)]))
    assert many.one_class[4:] == [
        "source S4: all rows are 安全: no AUC, no F1 of 不安全",
        "4 more sources have rows of one label alone",
        "scenario x: all rows are 安全: no AUC, no F1 of 不安全",
    ]
