"""What `libra bench` tells people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from libra_guard.bench.agreement import Agreement
    from libra_guard.bench.outcome import Outcome

SHOWN = 20
"""So many faults are shown; a file holds them all."""
_WIDTH = 120


def say(line: str) -> None:
    """A line for people, on stderr."""
    typer.echo(line, err=True)


def say_all(lines: Iterable[str]) -> None:
    """The first lines, and how many more there are."""
    told = list(lines)
    for line in told[:SHOWN]:
        say(line)
    if len(told) > SHOWN:
        say(f"… and {len(told) - SHOWN} more")


def show(found: Outcome) -> None:
    """Agreement by scenario and by annotator."""
    from rich.console import Console
    from rich.table import Table

    from libra_guard.bench.agreement import ALL, ALPHA_LEAST, figure

    table = Table(box=None, pad_edge=False)
    for column in ("", "rows", "unanimous", "Fleiss' kappa", "n", "Krippendorff's alpha", "n", "不确定", "missing"):
        table.add_column(column, justify="right" if column else "left")
    for name, one in found.scenarios.items():
        kappa, alpha = _with_intervals(one)
        counts = (one.fleiss_rows, one.krippendorff_rows, one.unsure, one.missing)
        whole, several, unsure, missing = map(str, counts)
        table.add_row(name, str(one.rows), figure(one.unanimous), kappa, whole, alpha, several, unsure, missing)
    # Below this width the names of the scenarios break into pieces.
    console = Console(highlight=False, width=max(_WIDTH, Console().width))
    console.print(table)
    for name, person in found.annotators.items():
        of = f"{person.labelled} labels, {person.unsure} 不确定, {person.missing} missing"
        same = f"{figure(person.with_others)} with the majority of the others on {person.compared} rows"
        console.print(f"{name}: {same}; {of}", soft_wrap=True)
    alphas = {name: one.krippendorff_alpha for name, one in found.scenarios.items() if name != ALL}
    low = [name for name, alpha in alphas.items() if alpha is not None and alpha < ALPHA_LEAST]
    if low:
        say(f"alpha below {ALPHA_LEAST}, so look at the rules and talk to the annotators: {', '.join(low)}")


def _with_intervals(one: Agreement) -> tuple[str, str]:
    from libra_guard.bench.agreement import figure

    pairs = (
        (one.fleiss_kappa, one.fleiss_kappa_interval),
        (one.krippendorff_alpha, one.krippendorff_alpha_interval),
    )
    kappa, alpha = (figure(v) + (f" ({figure(i[0])}–{figure(i[1])})" if i else "") for v, i in pairs)
    return kappa, alpha
