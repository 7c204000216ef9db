"""libra cascade: fit the limits of a cascade on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.cli.options import this_command

if TYPE_CHECKING:
    from libra_guard.evaluate.cascade import CascadeGoal, Fit

LOSE = 0.005
"""Where no goal is given: half a point of accuracy."""


def cascade(
    fast: Annotated[Path, typer.Option(metavar="DIR", help="What `libra infer` wrote with the fast guard.")],
    strong: Annotated[Path, typer.Option(metavar="DIR", help="The same with the strong guard, on the same rows.")],
    labels: Annotated[str, typer.Option(help="Their labels, in the Libra-Test format.")],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="The cascade, a YAML file.")],
    calls: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the rows that the strong guard is asked at most.")
    ] = None,
    lose: Annotated[
        float | None,
        typer.Option(min=0, max=1, help=f"Accuracy lost to the strong guard at most; {LOSE} if neither is given."),
    ] = None,
    label_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the labels' rows keep the label, if not in label.")
    ] = None,
    fast_guard: Annotated[
        str | None, typer.Option(metavar="NAME[:MODEL]", help="Names the fast guard, where its run.json does not.")
    ] = None,
    strong_guard: Annotated[
        str | None, typer.Option(metavar="NAME[:MODEL]", help="Names the strong guard, likewise.")
    ] = None,
) -> None:
    """Fit a cascade: the scores of the fast guard between which the strong one is asked.

    Limits of questions (runs with --judge prompt) are written beside those of the answers in FILE: fit these first.

    Exit status: 0 done, 1 done but rows or options were left out (told on standard error), 2 wrong use, or no limits
    reach the goal: nothing is written.
    """
    from libra_guard.evaluate.cascade import CascadeGoal, fit, read_runs
    from libra_guard.evaluate.cascade_file import cascade_file
    from libra_guard.evaluate.report import beside
    from libra_guard.io import write_atomic

    goal = CascadeGoal(calls, LOSE if calls is None and lose is None else lose)
    runs = read_runs(fast, strong, labels, label_field)
    found = fit(runs.rows, runs.partners, goal)
    command = this_command()
    text, by_hand = cascade_file(runs, found, goal, out=out, fast=fast_guard, strong=strong_guard, command=command)
    write_atomic(out, text)
    _show(found)
    for line in (*beside([fast, strong], [labels]), *runs.complaints, *by_hand, *_missed(found, goal)):
        typer.echo(line, err=True)
    typer.echo(f"{out}: fitted on {found.rows} rows of {found.questions} questions", err=True)
    if runs.complaints or by_hand:
        raise typer.Exit(1)


def _show(found: Fit) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("strong asked", "accuracy", "F1-Unsafe", "FPR"):
        table.add_column(column, justify="right")
    for name in ("fast", "strong", "in_sample", "cross_validated"):
        row = getattr(found, name)
        rates = (
            "–" if rate is None else f"{rate:.4f}" for rate in (row.accuracy, row.f1_unsafe, row.false_positive_rate)
        )
        title = {"in_sample": "cascade, in sample", "cross_validated": "cascade, cross-validated"}.get(name, name)
        table.add_row(title, f"{row.calls:.1%}", *rates)
    console = Console(highlight=False)
    console.print(table)
    limits, odd = found.limits, found.comparison
    console.print(f"\nsafe below {limits.safe_below:.6g}, unsafe from {limits.unsafe_from:.6g}")
    alone = f"{odd.only_first_right} rows, the strong guard alone on {odd.only_second_right}"
    said = f"cross-validated, the cascade alone is right on {alone} (McNemar p = {odd.p_accuracy:.3g})"
    console.print(said, soft_wrap=True)


def _missed(found: Fit, goal: CascadeGoal) -> list[str]:
    """What of the goal was reached only on the rows that the limits were chosen on."""
    lost, asked = found.strong.accuracy - found.cross_validated.accuracy, found.cross_validated.calls
    lines = []
    if goal.calls is not None and asked > goal.calls:
        lines.append(f"cross-validated, the strong guard is asked {asked:.1%} of the rows, and not {goal.calls:.1%}")
    if goal.lose is not None and lost > goal.lose:
        lines.append(f"cross-validated, {lost:.2%} of accuracy is lost, and not {goal.lose:.2%}")
    return lines
