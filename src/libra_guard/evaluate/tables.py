"""A report as a table for people, JSON, Markdown, CSV or LaTeX. Each has the sources, their average, the scenarios."""

from __future__ import annotations

import csv
import io
import json
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

    from libra_guard.evaluate.metrics import Metrics
    from libra_guard.evaluate.report import Report
    from libra_guard.evaluate.significance import Comparison

DASH = "–"
AVERAGE = "Average"
_COLUMNS = {
    "n": "n",
    "accuracy": "Accuracy",
    "f1_unsafe": "F1-Unsafe",
    "f1_safe": "F1-Safe",
    "auc": "AUC",
    "auprc": "AUPRC",
    "ece": "ECE",
    "false_positive_rate": "FPR",
    "over_refusal": "Over-refusal",
    "unreadable": "Unreadable",
}
_SPARED = ("over_refusal", "auprc", "ece", "auc", "false_positive_rate")
"""Columns that a narrow terminal does without, the first of them first."""
_WIDE = 200
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DASH: "--",
}
_MARKDOWN = {ord(c): "\\" + c for c in "\\`*_[]<>|"}


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"
    MD = "md"
    CSV = "csv"
    LATEX = "latex"


class Line(NamedTuple):
    """One row of every table."""

    group: str
    """``source``, ``average`` or ``scenario``."""
    name: str
    metrics: Metrics


def lines(report: Report) -> list[Line]:
    """The rows of every table, in order."""
    sources = [Line("source", name, found) for name, found in report.sources.items()]
    scenarios = [Line("scenario", name, found) for name, found in report.scenarios.items()]
    return [*sources, Line("average", AVERAGE, report.average), *scenarios]


def render(report: Report, form: Format, *, width: int | None = None, colour: bool = False) -> str:
    """The report as text, without a newline at the end.

    Args:
        report: What ``evaluate`` gave.
        form: CSV has every metric with its interval, JSON everything, the others the main metrics.
        width: Columns of the terminal, for ``Format.TABLE``; None leaves the table as wide as it is. A narrow
            one goes without some columns.
        colour: Whether ``Format.TABLE`` may use colour.
    """
    if form is Format.TABLE:
        return _table(report, width, colour)
    written = {Format.JSON: _json, Format.MD: _markdown, Format.CSV: _csv, Format.LATEX: _latex}
    return written[form](report)


def sentences(found: Comparison) -> list[str]:
    """The paired tests in words."""
    first, second = found.accuracy
    said = [
        f"Accuracy {first:.4f} against {second:.4f} on {found.n} rows that both runs have: "
        f"{found.only_first_right} right in the first alone, {found.only_second_right} in the second alone, "
        f"McNemar's exact p = {found.p_accuracy:.4g}."
    ]
    if found.f1_unsafe_difference is not None:
        bounds, p = found.f1_unsafe_interval, found.p_f1_unsafe
        tested = "" if bounds is None else f" (95 % interval {bounds[0]:+.4f} to {bounds[1]:+.4f}, paired bootstrap"
        tested += "" if bounds is None or p is None else f" p = {p:.4g})"
        ours, theirs = (number(value) for value in found.f1_unsafe)
        known, there = found.f1_unsafe_over
        over = "sources" if known == there else f"{known} of {there} sources"
        said.append(f"F1-Unsafe, mean over {over}, {ours} against {theirs}: {found.f1_unsafe_difference:+.4f}{tested}.")
    return said


def number(value: float | None) -> str:
    """A metric to four decimals, a count as it is, a dash for what is undefined."""
    if value is None:
        return DASH
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _cell(metrics: Metrics, column: str, form: str = " ({})") -> str:
    bounds = metrics.intervals.get(column)
    interval = form.format(f"{bounds[0]:.3f}{DASH}{bounds[1]:.3f}") if bounds else ""
    return number(getattr(metrics, column)) + interval


def _table(report: Report, width: int | None, colour: bool) -> str:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.text import Text

    stream = io.StringIO()
    console = Console(file=stream, width=width or _WIDE, force_terminal=colour, no_color=not colour)
    columns = list(_COLUMNS)
    for least in _SPARED:
        needed = Measurement.get(console, console.options.update(max_width=_WIDE), _grid(report, columns)).minimum
        if needed <= console.width:
            break
        columns.remove(least)
    console.print(_grid(report, columns))
    for said in _said(report):
        console.print(Text(said))
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n")).strip("\n")


def _grid(report: Report, columns: list[str]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, padding=(0, 1), header_style="bold")
    table.add_column("", overflow="fold")
    for column in columns:
        title = _COLUMNS[column].replace("-r", "-\nr").replace("Unr", "Un-\nr")
        table.add_column(title, justify="right", no_wrap=True)
    rows = lines(report)
    for line, following in zip(rows, [*rows[1:], None], strict=True):
        cells = [_cell(line.metrics, column, "\n{}") for column in columns]
        style = "bold" if line.group == "average" else ""
        ends = following is not None and following.group != line.group
        # As Text, for a name in the data may look like markup.
        table.add_row(Text(line.name), *map(Text, cells), style=style, end_section=ends)
    return table


def _json(report: Report) -> str:
    text = json.dumps(report.model_dump(mode="json"), ensure_ascii=False, indent=2)
    # A lone surrogate, as a run's own record may hold, becomes its escape, which JSON reads back.
    return text.encode("utf-8", "backslashreplace").decode()


def _markdown(report: Report) -> str:
    head = ["| | " + " | ".join(_COLUMNS.values()) + " |", "|---|" + "--:|" * len(_COLUMNS)]
    rows = []
    for line in lines(report):
        name, mark = line.name.translate(_MARKDOWN), "**" if line.group == "average" else ""
        rows.append(f"| {mark}{name}{mark} | " + " | ".join(_cell(line.metrics, c) for c in _COLUMNS) + " |")
    return "\n".join([*head, *rows, *(f"\n{said}" for said in _said(report))])


def _csv(report: Report) -> str:
    columns = [name for name in type(report.overall).model_fields if name != "intervals"]
    bounded = list(dict.fromkeys(name for line in lines(report) for name in line.metrics.intervals))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["group", "name", *columns, *(f"{name}_{end}" for name in bounded for end in ("low", "high"))])
    for group, name, metrics in lines(report):
        ends = [end for b in bounded for end in metrics.intervals.get(b, (None, None))]
        writer.writerow([group, name, *(getattr(metrics, column) for column in columns), *ends])
    return stream.getvalue().removesuffix("\n")


def _latex(report: Report) -> str:
    """A table of the package booktabs; needs a Chinese font where a name is Chinese."""
    rows, before = [], "source"
    for line in lines(report):
        if line.group != before:
            rows.append(r"\midrule")
            before = line.group
        cells = [line.name, *(_cell(line.metrics, column) for column in _COLUMNS)]
        rows.append(" & ".join(_escaped(cell) for cell in cells) + r" \\")
    head = " & ".join(["", *map(_escaped, _COLUMNS.values())]) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'r' * len(_COLUMNS)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _said(report: Report) -> list[str]:
    return [] if report.comparison is None else sentences(report.comparison)
