"""libra calibrate: a guard's calibration, fitted on predictions and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.cli.options import this_command
from libra_guard.errors import UsageError

if TYPE_CHECKING:
    from libra_guard.evaluate.calibration_fit import CalibrationGoal
    from libra_guard.evaluate.metrics import Metrics

_COLUMNS = {
    "n": "n",
    "ece": "ECE",
    "accuracy": "Accuracy",
    "f1_unsafe": "F1-Unsafe",
    "f1_safe": "F1-Safe",
    "false_positive_rate": "FPR",
    "recall_unsafe": "Recall",
}


def calibrate(
    predictions: Annotated[Path, typer.Option(help="Folder that `libra infer` wrote with the uncalibrated guard.")],
    labels: Annotated[str, typer.Option(help="Labels of its rows, in the Libra-Test format.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", dir_okay=False, help="Beside the model, as calibration.json, it is found.")
    ],
    method: Annotated[str, typer.Option(help="temperature, platt, isotonic, or none: only a threshold.")] = "platt",
    false_positives: Annotated[
        float | None, typer.Option(min=0, max=1, help="Flag at most this share of the safe rows.")
    ] = None,
    recall: Annotated[float | None, typer.Option(min=0, max=1, help="Find at least this share of the unsafe.")] = None,
    label_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the labels' rows keep the label, if not in label.")
    ] = None,
    test_predictions: Annotated[Path | None, typer.Option(help="A second run of the guard, to measure on.")] = None,
    test_labels: Annotated[str | None, typer.Option(help="Labels of its rows.")] = None,
    seed: Annotated[int, typer.Option(help="Of the cross-validation.", min=0)] = 42,
) -> None:
    """Fit what a guard's scores are worth, and its threshold: for the best F1 of 不安全, unless a goal is given.

    Questions and answers have a map each: FILE, where it is there already, keeps its other one.

    Exit status: 0 done, 1 done but something was missing or left out (told on standard error), 2 wrong use.
    """
    from libra_guard.evaluate.calibration_file import Verdicts, calibrate
    from libra_guard.evaluate.calibration_fit import CalibrationGoal, FitMethod
    from libra_guard.evaluate.report import beside
    from libra_guard.guards.calibration import Calibration
    from libra_guard.io import write_atomic

    if method not in list(FitMethod):
        raise UsageError(f"--method is one of {', '.join(FitMethod)}, not '{method}'")
    test = None
    if test_predictions is not None and test_labels is not None:
        test = Verdicts(test_predictions, test_labels, label_field)
    elif (test_predictions, test_labels) != (None, None):
        raise UsageError("--test-predictions and --test-labels are given together")
    goal = CalibrationGoal(false_positives, recall)
    result = calibrate(
        Verdicts(predictions, labels, label_field),
        method=FitMethod(method),
        goal=goal,
        test=test,
        present=Calibration.read(out) if out.exists() else None,
        seed=seed,
        command=this_command(),
    )
    write_atomic(out, result.calibration.text())
    typer.echo(_table(result.rows))
    read = [predictions, *([test_predictions] if test_predictions else [])]
    not_read = beside(read, [labels, *([test_labels] if test_labels else [])])
    for line in (*not_read, *result.complaints, *_missed(result.rows, goal)):
        typer.echo(line, err=True)
    typer.echo(f"{out}: unsafe from {result.map.threshold:.6g} on", err=True)
    if result.complaints:
        raise typer.Exit(1)


def _missed(rows: Mapping[str, Metrics], goal: CalibrationGoal) -> list[str]:
    """What of the goal was reached only on the rows that were fitted on."""
    found = rows["after, cross-validated"]
    flagged, recall = found.false_positive_rate or 0.0, found.recall_unsafe or 0.0
    lines = []
    if goal.false_positives is not None and flagged > goal.false_positives:
        lines.append(f"cross-validated, {flagged:.2%} of the safe rows are flagged, and not {goal.false_positives:.2%}")
    if goal.recall is not None and recall < goal.recall:
        lines.append(f"cross-validated, {recall:.2%} of the unsafe rows are found, and not {goal.recall:.2%}")
    return lines


def _table(rows: Mapping[str, Metrics]) -> str:
    from libra_guard.evaluate.tables import number

    lines = [["", *_COLUMNS.values()]]
    lines += [[name, *(number(getattr(metrics, column)) for column in _COLUMNS)] for name, metrics in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
