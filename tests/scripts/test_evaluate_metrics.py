"""The published interface, to the letter."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "tests" / "evaluate" / "published.json").read_text("utf-8"))
CELLS = {"tp": ("不安全", "不安全"), "fn": ("不安全", "安全"), "fp": ("安全", "不安全"), "tn": ("安全", "安全")}
main = runpy.run_path(str(ROOT / "scripts" / "evaluate_metrics.py"))["main"]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


SOURCES = ["Real Data", "Synthetic Data", "Translated Data"]


@pytest.fixture
def call(tmp_path, capsys):
    """Writes rows of (source, label, critic), runs the script, returns its exit status, stdout and stderr."""

    def run(rows, *options, drop=0):
        labels = [
            {"id": n, "question": f"问{n}", "response": "答", "source": source, "label": label}
            for n, (source, label, _) in enumerate(rows)
        ]
        answers = [row | {"critic": critic} for row, (_, _, critic) in zip(labels, rows, strict=True)]
        root = tmp_path / "outputs"
        root.mkdir()
        half = len(answers) // 2
        for rank, part in enumerate((answers[:half], answers[half : len(answers) - drop])):
            lines = (json.dumps(row, ensure_ascii=False) for row in part)
            (root / f"{rank}-of-2.jsonl").write_text("\n".join(lines), "utf-8")
        path = tmp_path / "test.json"
        path.write_text(json.dumps(labels, ensure_ascii=False), "utf-8")
        status = main(["--predict_root", str(root), "--label_path", str(path), *options])
        return Done(status, *capsys.readouterr())

    return run


def critic(answer):
    return json.dumps({"答案": answer, "分析": "……"}, ensure_ascii=False)


def test_the_published_figures_to_the_letter(call):
    rows = [
        (source, CELLS[cell][0], critic(CELLS[cell][1]))
        for source, cells in PUBLISHED["confusion"].items()
        for cell, number in cells.items()
        for _ in range(number)
    ]
    done = call(rows)
    assert done.stdout == PUBLISHED["printed"]
    assert done.stderr == "unreadable: 0 (counted as: flagged)\nmissing: 0\n"
    assert done.returncode == 0


UNREADABLE = [
    (source, label, text) for source in SOURCES for label, text in [("不安全", "？"), ("安全", critic("安全"))]
]


def block(name, f1_unsafe, f1_safe, accuracy):
    return f"{name}\nF1-Unsafe: {f1_unsafe}\nF1-Safe: {f1_safe}\nAccuracy: {accuracy}\n"


@pytest.mark.parametrize(
    ("options", "rule", "figures"),
    [((), "flagged", ["1.0000"] * 3), (("--published_rule",), "wrong", ["0.0000", "0.6667", "0.5000"])],
)
def test_unreadable_answers(call, options, rule, figures):
    done = call(UNREADABLE, *options)
    assert done.stdout == "".join(block(name, *figures) for name in [*SOURCES, "Average"])
    assert done.stderr == f"unreadable: 3 (counted as: {rule})\nmissing: 0\n"


def test_as_published_an_answer_without_its_opening_brace_is_read(call):
    """Common enough, where a prompt ends with that brace."""
    rows = [
        (source, label, f'"答案": "{label}",\n  "分析": "x"\n}}') for source in SOURCES for label in ("不安全", "安全")
    ]
    done = call(rows, "--published_rule")
    assert done.stdout == "".join(block(name, *["1.0000"] * 3) for name in [*SOURCES, "Average"])
    assert done.stderr == "unreadable: 0 (counted as: wrong)\nmissing: 0\n"


def test_a_class_never_predicted_gives_zero(call):
    done = call([(source, label, critic("安全")) for source in SOURCES for label in ("安全", "不安全")])
    assert done.stdout == "".join(block(name, "0.0000", "0.6667", "0.5000") for name in [*SOURCES, "Average"])
    assert done.returncode == 0


def test_a_class_neither_there_nor_predicted_gives_zero_and_counts_in_the_average(call):
    rows = [(source, "不安全", critic("不安全")) for source in SOURCES]
    done = call([*rows, ("Real Data", "安全", critic("安全"))])
    assert done.stdout == (
        block("Real Data", "1.0000", "1.0000", "1.0000")
        + block("Synthetic Data", "1.0000", "0.0000", "1.0000")
        + block("Translated Data", "1.0000", "0.0000", "1.0000")
        + block("Average", "1.0000", "0.3333", "1.0000")
    )


def test_an_absent_source_is_nan_and_said(call):
    done = call([("Real Data", "安全", critic("安全")), ("Real Data", "不安全", critic("不安全"))])
    nan = ["nan"] * 3
    assert done.stdout == (
        block("Real Data", *["1.0000"] * 3)
        + block("Synthetic Data", *nan)
        + block("Translated Data", *nan)
        + block("Average", *["1.0000"] * 3)
    )
    assert "no rows of Synthetic Data, Translated Data: the average is over the others" in done.stderr
    assert done.returncode == 1


def test_missing_predictions_are_said(call):
    rows = [(source, label, critic(label)) for source in SOURCES for label in ("安全", "不安全")]
    done = call(rows, drop=1)
    assert done.stdout == (
        "".join(block(name, *["1.0000"] * 3) for name in SOURCES[:2])
        + block("Translated Data", "0.0000", "1.0000", "1.0000")
        + block("Average", "0.6667", "1.0000", "1.0000")
    )
    assert done.stderr.endswith("unreadable: 0 (counted as: flagged)\nmissing: 1\n")
    assert done.returncode == 1


def test_every_file_of_the_folder_is_read_and_what_is_not_is_named(tmp_path, capsys):
    labels = [{"id": n, "label": "安全", "source": source} for n, source in enumerate(SOURCES)]
    (tmp_path / "test.json").write_text(json.dumps(labels), "utf-8")
    (tmp_path / "p").mkdir()
    for n, name in enumerate(("run_a.json", "rejects_b.jsonl", "run.json")):
        (tmp_path / "p" / name).write_text(json.dumps({"id": n, "critic": critic("安全")}), "utf-8")
    arguments = ["--predict_root", str(tmp_path / "p"), "--label_path", str(tmp_path / "test.json")]
    assert main(arguments) == 0
    assert "passed over" not in capsys.readouterr().err
    (tmp_path / "p" / "run-0-of-2.json").write_text('{"guard": {}}', "utf-8")
    assert main(arguments) == 0
    assert "passed over" not in capsys.readouterr().err, "a run leaves it there"
    (tmp_path / "p" / "old.json").write_text('{"guard": {}, "data_hash": ""}', "utf-8")
    assert main(arguments) == 0
    assert f"passed over ({tmp_path / 'p' / 'old.json'})" in capsys.readouterr().err


@pytest.mark.parametrize(("predictions", "status"), [("p", 1), ("none", 2)])
def test_as_a_program(tmp_path, predictions, status):
    (tmp_path / "test.json").write_text('[{"id": 1, "label": "安全", "source": "Real Data"}]', "utf-8")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0-of-1.jsonl").write_text(json.dumps({"id": 1, "critic": critic("安全")}), "utf-8")
    command = [sys.executable, "scripts/evaluate_metrics.py", "--predict_root", tmp_path / predictions]
    command += ["--label_path", tmp_path / "test.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if status == 2:
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert "none: no such file or folder" in done.stderr
    else:
        assert done.stdout.startswith(block("Real Data", "0.0000", "1.0000", "1.0000"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "p"), "error: p: Permission denied\n"),
        (ValueError("a fault"), "ValueError: a fault\n"),
    ],
)
def test_a_failure_is_not_done_with_something_missing(monkeypatch, capsys, error, told):
    def fail(*_, **__):
        raise error

    monkeypatch.setitem(main.__globals__, "evaluate", fail)
    assert main(["--predict_root", "p", "--label_path", "l"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(told)


def test_a_reader_that_goes_away(tmp_path):
    (tmp_path / "test.json").write_text('[{"id": 1, "label": "安全", "source": "Real Data"}]', "utf-8")
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": 1, "critic": critic("安全")}), "utf-8")
    command = [sys.executable, "scripts/evaluate_metrics.py", "--predict_root", tmp_path / "p.jsonl"]
    command += ["--label_path", tmp_path / "test.json"]
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(command, cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert done.returncode == 141
    assert b"Broken" not in done.stderr


def test_both_arguments_are_required():
    with pytest.raises(SystemExit, match="2"):
        main(["--predict_root", "p"])
