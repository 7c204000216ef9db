"""``libra evaluate``: scores of predictions against a benchmark."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from libra_guard.errors import UsageError
from libra_guard.evaluate.rules import Controversial, Rules, Unreadable
from libra_guard.evaluate.tables import Format


def evaluate(
    predictions: Annotated[Path, typer.Option(help="Folder that `libra infer` wrote, or one file of predictions.")],
    labels: Annotated[str, typer.Option(help="Benchmark in the Libra-Test format.")],
    label_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the labels' rows keep the label, if not in label.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write the scores.")] = Format.TABLE,
    compare: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Predictions of a second run: tests the difference.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Decide anew: unsafe means a score of at least this.", min=0, max=1)
    ] = None,
    unreadable: Annotated[
        Unreadable, typer.Option(help="What an answer that cannot be read counts as; 'wrong' is the published rule.")
    ] = Unreadable.FLAGGED,
    controversial: Annotated[Controversial, typer.Option(help="What 有争议 counts as.")] = Controversial.UNSAFE,
    bootstrap: Annotated[int, typer.Option(help="Resamples for intervals: 100 or more; 0 for none.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 42,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Score predictions against labels: per source, their average, per scenario.

    Exit status: 0 done, 1 done but something was missing or left out (told on standard error), 2 wrong use.
    """
    from libra_guard.evaluate.report import beside
    from libra_guard.evaluate.report import evaluate as score
    from libra_guard.evaluate.tables import render, sentences
    from libra_guard.io import write_atomic

    if out is not None:
        _spare(out, form, labels, [predictions] if compare is None else [predictions, compare])
    rules = Rules(threshold=threshold, unreadable=unreadable, controversial=controversial)
    report = score(
        predictions, labels, rules=rules, other=compare, label_field=label_field, resamples=bootstrap, seed=seed
    )
    terminal = out is None and sys.stdout.isatty()
    text = render(report, form, width=_width() if terminal else None, colour=terminal)
    if out is None:
        typer.echo(text)
    else:
        write_atomic(out, text + "\n")
    for line in [*report.beside, *beside([], [labels]), *report.complaints, *report.gaps, *report.one_class]:
        typer.echo(line, err=True)
    if form in (Format.CSV, Format.LATEX) and report.comparison is not None:
        for line in sentences(report.comparison):
            typer.echo(line, err=True)
    counts = report.counts
    typer.echo(f"{counts.matched} rows scored, {report.unreadable} unreadable (counted as: {unreadable})", err=True)
    if not report.complete:
        raise typer.Exit(1)


def _spare(out: Path, form: Format, labels: str, predictions: Sequence[Path]) -> None:
    """Sees to it that the report neither replaces what is read, nor is read as predictions by the next call.

    Raises:
        UsageError: It would.
    """
    from libra_guard.cli.options import spare_inputs
    from libra_guard.evaluate.folder import find_files, is_replaceable, readable_report

    found = [find_files(path) for path in predictions]
    beside = [file for files in found for file in files.others if not is_replaceable(file)]
    spare_inputs([out], [labels, *(file for files in found for file in files.predictions), *beside])
    among = any(path.is_dir() and path.resolve() == out.resolve().parent for path in predictions)
    if among and not readable_report(out.name, form is Format.JSON):
        raise UsageError(
            f"{out}: would be read as predictions by the next call: among them, only a report with --format json "
            "may end in .json, and none in .jsonl or .gz"
        )


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns
