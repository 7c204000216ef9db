import csv
import io
import json
import subprocess
import sys

import pytest

from libra_guard.evaluate.metrics import SCORES, decide, measure
from libra_guard.evaluate.report import Average, Counts, Report
from libra_guard.evaluate.rules import Rules
from libra_guard.evaluate.significance import Comparison
from libra_guard.evaluate.tables import Format, render, sentences

NASTY = "[red]50% & a_b #1 | {x} \\ ~^$ *b*"


@pytest.fixture
def report(matched):
    both = measure(
        decide(matched([("不安全", "不安全", 0.9), ("安全", "不安全", 0.6), ("安全", "安全", 0.1)]), Rules())
    )
    both = both.model_copy(update={"intervals": {"accuracy": (0.25, 0.875)}})
    safe = measure(decide(matched([("安全", "安全", None)]), Rules()))
    return Report(
        sources={"Real Data": both, NASTY: safe},
        average=Average(**both.model_dump(exclude={"intervals"})),
        scenarios={"隐私": both},
        overall=both,
        unreadable=0,
        counts=Counts(matched=4),
        named={},
        provenance={"runs": {"run.json": {"text": "\ud800", "emoji": "是"}}},
    )


@pytest.mark.parametrize("form", Format)
def test_every_form_has_the_same_rows_in_order(report, form):
    text = render(report, form)
    if form is Format.JSON:
        found = json.loads(text)
        names = [*found["sources"], "Average", *found["scenarios"]]
        assert found["average"]["f1_unsafe"] == pytest.approx(2 / 3)
    else:
        places = {name: text.find(name) for name in ("Real Data", "50", "Average", "隐私")}
        assert -1 not in places.values()
        names = sorted(places, key=places.get)
    assert [n[:9] for n in names] in (
        ["Real Data", "50", "Average", "隐私"],
        ["Real Data", NASTY[:9], "Average", "隐私"],
    )
    assert not text.endswith("\n")


def test_undefined_is_a_dash_and_never_zero(report):
    line = next(line for line in render(report, Format.MD).splitlines() if "50%" in line)
    cells = [cell.strip() for cell in line.rsplit("|", 11)[1:-1]]
    assert cells == ["1", "1.0000", "–", "1.0000", "–", "–", "–", "0.0000", "0.0000", "0"]


def test_markdown_escapes_names_and_has_equal_cells(report):
    lines = render(report, Format.MD).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert r"\[red\]50% & a\_b #1 \| {x} \\ ~^$ \*b\*" in lines[3]
    assert "0.6667 (0.250–0.875)" in lines[2]


def test_latex_escapes_names(report):
    text = render(report, Format.LATEX)
    assert r"[red]50\% \& a\_b \#1 | \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\$ *b* & 1 &" in text
    assert "0.6667 (0.250--0.875)" in text
    assert "–" not in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1


def test_csv_has_every_metric_and_reads_back(report):
    rows = list(csv.DictReader(io.StringIO(render(report, Format.CSV))))
    assert [row["group"] for row in rows] == ["source", "source", "average", "scenario"]
    assert rows[1]["name"] == NASTY
    assert set(SCORES) <= set(rows[0])
    assert float(rows[0]["accuracy"]) == pytest.approx(2 / 3)
    assert (rows[0]["accuracy_low"], rows[0]["accuracy_high"]) == ("0.25", "0.875")
    assert rows[1]["f1_unsafe"] == rows[1]["accuracy_low"] == ""


def test_table_shows_markup_in_names_as_it_is_and_has_no_escapes_by_default(report):
    text = render(report, Format.TABLE)
    assert "[red]50% & a_b" in text
    assert "\x1b" not in text
    assert "\x1b[1m" in render(report, Format.TABLE, colour=True)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_loses_columns_not_figures(report, width):
    text = render(report, Format.TABLE, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "0.6667" in text
    assert ("AUPRC" in text) is (width >= 100)
    assert ("Over-" in text) is (width == 140)


def test_a_comparison_is_told_in_words(report):
    found = Comparison(
        n=10,
        only_first_right=5,
        only_second_right=0,
        accuracy=(0.9, 0.4),
        p_accuracy=0.0625,
        f1_unsafe=(0.8, 0.5),
        f1_unsafe_over=(3, 3),
        f1_unsafe_difference=0.3,
        f1_unsafe_interval=(0.1, 0.5),
        p_f1_unsafe=0.01,
    )
    told = sentences(found)
    assert "5 right in the first alone, 0 in the second alone, McNemar's exact p = 0.0625." in told[0]
    assert told[1].startswith("F1-Unsafe, mean over sources, 0.8000 against 0.5000: ")
    assert told[1].endswith("+0.3000 (95 % interval +0.1000 to +0.5000, paired bootstrap p = 0.01).")
    compared = report.model_copy(update={"comparison": found})
    for form in (Format.TABLE, Format.MD):
        assert "McNemar" in render(compared, form)
    fewer = sentences(found.model_copy(update={"f1_unsafe_over": (2, 3)}))
    assert fewer[1].startswith("F1-Unsafe, mean over 2 of 3 sources, 0.8000 against 0.5000: ")
    undefined = found.model_copy(update={"f1_unsafe_difference": None, "f1_unsafe": (None, None)})
    assert len(sentences(undefined)) == 1


def test_the_command_is_cheap_to_import():
    code = "import sys, libra_guard.cli.evaluate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"sklearn", "scipy", "numpy", "pyarrow", "onnxruntime", "torch"}
