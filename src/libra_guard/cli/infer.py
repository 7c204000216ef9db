"""libra infer: a guard over a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.cli.options import (
    BackendOption,
    GuardOption,
    SettingsOption,
    ThresholdOption,
    given_options,
    open_guard,
    part_of,
    this_command,
)
from libra_guard.errors import UsageError
from libra_guard.records import Target

if TYPE_CHECKING:
    from libra_guard.predict.rows import Fields

ENGINES = ("local",)


def infer(
    data: Annotated[str, typer.Option(metavar="PATH", help="JSON, JSONL, CSV, Parquet, a folder, or hf://NAME.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the results; an interrupted run goes on.")
    ],
    guard: GuardOption = "mini",
    backend: BackendOption = None,
    threshold: ThresholdOption = None,
    settings: SettingsOption = None,
    shard: Annotated[str, typer.Option(metavar="R/N", help="Part R (from 0) of N contiguous parts.")] = "0/1",
    explain: Annotated[bool, typer.Option(help="Also write an analysis.")] = False,
    judge: Annotated[Target, typer.Option(help="Judge the answers, or the questions alone.")] = Target.RESPONSE,
    question_field: Annotated[
        str | None, typer.Option(help="Where a row keeps its question, if not in question; wins over messages.")
    ] = None,
    response_field: Annotated[
        str | None, typer.Option(help="Where a row keeps its answer, if not in response; wins over messages.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of text files; by default UTF-8, or GB18030 if it is.")] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Rows judged and written together.")] = 64,
    retry: Annotated[bool, typer.Option("--retry", help="Also judge again the rows that the model failed on.")] = False,
    engine: Annotated[str, typer.Option(help="Where it runs.")] = "local",
) -> None:
    """Judge every row of a file. Results: R-of-N.jsonl, rejects.jsonl, run.json.

    Exit status: 0 done, 1 done but rows were rejected, 2 wrong use or a model that fails, 3 its server is away: the
    same command goes on.
    """
    from libra_guard.predict.record import Asked
    from libra_guard.predict.redaction import redacted_errors
    from libra_guard.predict.runner import Settings, run
    from libra_guard.predict.show import progress_bar, summary

    if engine not in ENGINES:
        raise UsageError(f"--engine is one of {', '.join(ENGINES)}, not '{engine}'")
    wanted = Settings(
        data=data,
        out=out,
        shard=part_of(shard),
        fields=_fields(question_field, response_field, judge),
        explain=explain,
        encoding=encoding,
        chunk=chunk,
    )
    with redacted_errors():
        opened = open_guard(guard, backend, threshold, settings)
        with progress_bar(wanted) as progress:
            command = this_command()
            asked = Asked(guard, backend, given_options(threshold, settings))
            outcome = run(opened, wanted, command=command, asked=asked, progress=progress, retry=retry)
    typer.echo(summary(outcome, wanted), err=True)
    if outcome.rejected:
        raise typer.Exit(1)


def _fields(question: str | None, response: str | None, target: Target) -> Fields:
    from libra_guard.predict.rows import Fields

    by_name = question is not None or response is not None
    return Fields(question or "question", response or "response", None if by_name else "messages", target)
