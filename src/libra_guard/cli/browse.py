"""``libra data browse``: a page to look at a data set with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from libra_guard.cli.options import spare_inputs


def browse(
    path: Annotated[str, typer.Argument(help="A file, a folder, or hf://owner/name: samples, pipeline rows, rejects.")],
    out: Annotated[Path, typer.Option(help="The page: one HTML file.")],
    sample: Annotated[int, typer.Option(help="Rows at most, spread evenly over scenarios and labels.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 42,
) -> None:
    """Writes a page to look at a data set with: filter, search, and open rows with their votes and their making.

    Of a run of the pipeline (RUN, or RUN/data) these are the samples of both stages. The page needs no network and no
    server. The files that were read are told on stderr. Rows that could not be read are on it with the reason, and
    counted on stderr; then the exit code is 1.
    """
    from libra_guard.data.browse import data_files, render, sample_rows
    from libra_guard.io import write_atomic

    spare_inputs([out], [path, *data_files(path)])
    found = sample_rows(path, sample, seed)
    write_atomic(out, render(found, path, seed))
    typer.echo(f"{out}: {len(found.rows)} of {found.total} rows", err=True)
    for file, count in found.files.items():
        typer.echo(f"  {count} in {file}", err=True)
    for reason, count in found.unreadable.most_common(10):
        typer.echo(f"  {count} not readable: {reason}", err=True)
    if found.unreadable:
        raise typer.Exit(1)
