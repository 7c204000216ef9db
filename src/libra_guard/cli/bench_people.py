"""libra bench, from the first annotator on: send, collect, agree, release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.cli.bench_shown import say, say_all, show
from libra_guard.errors import UsageError

if TYPE_CHECKING:
    from libra_guard.bench.label_studio import LabelStudio

Folder = Annotated[Path, typer.Argument(metavar="ROUND", help="Folder that `libra bench round` made.")]
Against = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="Training data: rows whose question stands there are left out. Repeatable."),
]
Url = Annotated[str, typer.Option(envvar="LABEL_STUDIO_URL", help="Address of the Label Studio.")]
LOCAL = "http://localhost:8080"


def send(folder: Folder, url: Url = LOCAL) -> None:
    """Give each annotator a project in Label Studio, with the round's rows.

    The token is read from LABEL_STUDIO_API_KEY. Called again, it adds what is missing and changes nothing else.
    """
    from libra_guard.bench.label_studio import send as send_round
    from libra_guard.bench.rounds import Round

    for annotator, project, added in send_round(Round(folder), _server(url)):
        say(f"{annotator}: {url.rstrip('/')}/projects/{project}, {added} rows added")


def collect(
    folder: Folder,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=FILE]...", help="What an annotator sent back: a sheet, or an export as JSON."),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Take the others' answers from Label Studio.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take them also where more answers of an annotator are here already.")
    ] = False,
    url: Url = LOCAL,
) -> None:
    """Read what annotators sent back into ROUND/annotations.jsonl.

    Each one's last file is kept in ROUND/returned, so they may come one by one, and those before in
    ROUND/returned/old. With --fetch, the token is read from LABEL_STUDIO_API_KEY.

    Exit status: 0 done, 1 done but answers are missing or faulty (ROUND/faults.jsonl), 2 wrong use.
    """
    from libra_guard.bench import returns
    from libra_guard.bench.rounds import Round

    one = Round(folder)
    given = returns.given_files(files or [], one.annotators)
    if replace and not fetch:
        raise UsageError("--replace says what --fetch may do: give that too")
    returns.keep_files(one, given)
    refused = []
    if fetch:
        from libra_guard.bench.label_studio import fetch as fetch_round

        exports = fetch_round(one, _server(url), given)
        refused = [why for name, tasks in exports if (why := returns.keep_export(one, name, tasks, replace=replace))]
    annotations, faults = returns.collect(one)
    say_all([*refused, *map(str, faults)])
    say(f"{folder / returns.ANNOTATIONS}: {len(annotations)} answers, {len(faults)} faults")
    if faults or refused:
        raise typer.Exit(1)


def agree(
    folder: Folder,
    adjudicated: Annotated[Path | None, typer.Option(metavar="FILE", help="The queue, filled in.")] = None,
    min_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of annotators that have to give a label; as last time, else 2/3."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap: 100 or more; 0: no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Settle labels by majority, measure agreement, and queue the rest for an adjudicator.

    Writes ROUND/labels.jsonl, agreement.json and the queue, adjudicate.csv and .jsonl: fill in label (and reason) in
    one of these and give it with --adjudicated; a copy is kept in ROUND/returned.

    Exit status: 0 all rows have a label, 1 some are open or answers are faulty, 2 wrong use.
    """
    from libra_guard.bench.outcome import agree as settle
    from libra_guard.bench.rounds import Round

    found = settle(Round(folder), adjudicated=adjudicated, min_share=min_share, resamples=resamples, seed=seed)
    show(found)
    say_all(map(str, found.faults))
    if found.unused:
        say(f"{found.unused} answers of the adjudicator are to rows that are not in the queue: kept, not used")
    say(f"{folder}: {len(found.labelled)} rows labelled, {len(found.open)} open")
    if found.open or found.faults:
        raise typer.Exit(1)


def release(
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder of the release; a new one.")],
    against: Against = None,
    licence: Annotated[str | None, typer.Option(help="Of the release, e.g. apache-2.0.")] = None,
) -> None:
    """Write the release: data/test.json, data/test.parquet, rules, card and SHA256SUMS.

    Exit status: 0 done, 1 done but rows were left out: open ones, and those in ROUND/leaks.jsonl, 2 wrong use.
    """
    from libra_guard.bench.release import release as publish
    from libra_guard.bench.rounds import Round

    made = publish(Round(folder), out, against=against or [], licence=licence)
    if not against:
        say("not checked against any training data: give it with --against")
    if made.unexplained:
        say(f"{made.unexplained} rows have no reason: their analyze is empty")
    say(f"{out}: {len(made.samples)} rows; left out: {made.open} open, {len(made.leaks)} that leak")
    if made.open or made.leaks:
        raise typer.Exit(1)


def _server(url: str) -> LabelStudio:
    import os

    from libra_guard.bench.label_studio import LabelStudio

    return LabelStudio(url, os.environ.get("LABEL_STUDIO_API_KEY", ""))
