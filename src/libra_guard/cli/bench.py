"""libra bench: make a benchmark with people, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.errors import UsageError

if TYPE_CHECKING:
    from libra_guard.bench.agreement import Agreement
    from libra_guard.bench.label_studio import LabelStudio
    from libra_guard.bench.outcome import Outcome
    from libra_guard.bench.select import SelectConfig

app = typer.Typer(
    help="Make a benchmark of the Libra-Test kind: hard rows, rounds of annotation, agreement, release.",
    no_args_is_help=True,
)
SHOWN = 20
"""So many faults are shown; a file holds them all."""

Folder = Annotated[Path, typer.Argument(metavar="ROUND", help="Folder that `libra bench round` made.")]
Against = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="Training data: rows whose question stands there are left out. Repeatable."),
]
Url = Annotated[str, typer.Option(envvar="LABEL_STUDIO_URL", help="Address of the Label Studio.")]
LOCAL = "http://localhost:8080"


@app.command()
def select(
    data: Annotated[str, typer.Option(metavar="PATH", help="Rows with question, response, category_name.")],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="The rows selected, JSON lines.")],
    judge: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A judge's `libra infer` run over them. Repeatable; else rows' own votes."),
    ] = None,
    quota: Annotated[int | None, typer.Option(min=1, help="Rows of each scenario.")] = None,
    agreed_share: Annotated[float, typer.Option(min=0, max=1, help="Share of rows on which judges agree.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    config: Annotated[
        Path | None, typer.Option(help="YAML with quota, quotas, agreed_share, seed, in place of these options.")
    ] = None,
    against: Against = None,
) -> None:
    """Choose rows on which judges differ, by quotas.

    What was left out is kept beside FILE: its stem with .rejects.jsonl, and .leaks.jsonl of --against.

    Exit status: 0 done, 1 done but rows could not be read, leak, or are missing in a quota, 2 wrong use.
    """
    from dataclasses import asdict

    from libra_guard.bench.rows import as_lines
    from libra_guard.bench.select import select as choose
    from libra_guard.io import write_atomic

    chosen = choose(data, judge or [], _select_config(config, quota, agreed_share, seed), against or [])
    kept = {"rejects": [item._asdict() for item in chosen.rejects], "leaks": [asdict(leak) for leak in chosen.leaks]}
    for name, records in kept.items():
        write_atomic(out.with_name(f"{out.stem}.{name}.jsonl"), as_lines(records))
    write_atomic(out, as_lines(row.as_dict() for row in chosen.rows))
    for filled in chosen.filled:
        _say(f"{filled}{f'; {filled.short} are missing' if filled.short else ''}")
    _say_all(chosen.complaints)
    left_out = {name: len(records) for name, records in kept.items() if records}
    _say(f"{out}: {len(chosen.rows)} rows" + "".join(f", {count} {name}" for name, count in left_out.items()))
    if left_out or chosen.complaints or any(filled.short for filled in chosen.filled):
        raise typer.Exit(1)


@app.command("round")
def make_round(
    rows: Annotated[str, typer.Option(metavar="FILE", help="Rows to label, e.g. of `libra bench select`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder of the round.")],
    annotator: Annotated[list[str], typer.Option(metavar="NAME", help="Who labels. Repeat for each; best three.")],
    name: Annotated[str, typer.Option(help="Of the benchmark.")],
    seed: Annotated[int, typer.Option(help="Of the annotators' orders.")] = 0,
) -> None:
    """Make an annotation round: tasks for Label Studio and sheets for each annotator, with the rules.

    Exit status: 0 done, 1 done but rows could not be taken (DIR/rejects.jsonl), 2 wrong use.
    """
    from libra_guard.bench.rounds import Round
    from libra_guard.bench.rows import as_lines, read_bench_rows
    from libra_guard.io import BadRow, write_atomic

    found = list(read_bench_rows(rows))
    rejects = [item for item in found if isinstance(item, BadRow)]
    taken = [item[0] for item in found if not isinstance(item, BadRow)]
    if not taken:
        raise UsageError(f"{rows}: no row that could be labelled" + (f": {rejects[0].reason}" if rejects else ""))
    one, made = Round.open_or_make(out, name, taken, annotator, seed)
    write_atomic(out / "rejects.jsonl", as_lines(reject._asdict() for reject in rejects))
    _say_all(f"{bad.file}:{bad.line}: {bad.reason}" for bad in rejects)
    _say(f"{out}: {len(taken)} rows for {', '.join(one.annotators)}" + ("" if made else "; it stands there already"))
    if rejects:
        raise typer.Exit(1)


@app.command()
def send(folder: Folder, url: Url = LOCAL) -> None:
    """Give each annotator a project in Label Studio, with the round's rows.

    The token is read from LABEL_STUDIO_API_KEY. Called again, it adds what is missing and changes nothing else.
    """
    from libra_guard.bench.label_studio import send as send_round
    from libra_guard.bench.rounds import Round

    for annotator, project, added in send_round(Round(folder), _server(url)):
        _say(f"{annotator}: {url.rstrip('/')}/projects/{project}, {added} rows added")


@app.command()
def collect(
    folder: Folder,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=FILE]...", help="What an annotator sent back: a sheet, or an export as JSON."),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Take all annotators' answers from Label Studio.")] = False,
    url: Url = LOCAL,
) -> None:
    """Read what annotators sent back into ROUND/annotations.jsonl.

    Each one's last file is kept in ROUND/returned, so they may come one by one. With --fetch, the token is read from
    LABEL_STUDIO_API_KEY.

    Exit status: 0 done, 1 done but answers are missing or faulty (ROUND/faults.jsonl), 2 wrong use.
    """
    from libra_guard.bench import returns
    from libra_guard.bench.rounds import Round

    one = Round(folder)
    for name, file in returns.given_files(files or [], one.annotators).items():
        returns.keep_file(one, name, file)
    if fetch:
        from libra_guard.bench.label_studio import fetch as fetch_round

        for name, tasks in fetch_round(one, _server(url)):
            returns.keep_export(one, name, tasks)
    annotations, faults = returns.collect(one)
    _say_all(map(str, faults))
    _say(f"{folder / returns.ANNOTATIONS}: {len(annotations)} answers, {len(faults)} faults")
    if faults:
        raise typer.Exit(1)


@app.command()
def agree(
    folder: Folder,
    adjudicated: Annotated[Path | None, typer.Option(metavar="FILE", help="The queue, filled in.")] = None,
    min_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of annotators that have to give a label; 2/3.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0: no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Settle labels by majority, measure agreement, and queue the rest for an adjudicator.

    Writes ROUND/labels.jsonl, agreement.json and the queue, adjudicate.csv and .jsonl: fill in label (and reason) in
    one of these and give it with --adjudicated.

    Exit status: 0 all rows have a label, 1 some are open or answers are faulty, 2 wrong use.
    """
    from libra_guard.bench.labels import MIN_SHARE
    from libra_guard.bench.outcome import agree as settle
    from libra_guard.bench.rounds import Round

    share = MIN_SHARE if min_share is None else min_share
    found = settle(Round(folder), adjudicated=adjudicated, min_share=share, resamples=resamples, seed=seed)
    _show(found)
    _say_all(map(str, found.faults))
    _say(f"{folder}: {len(found.labelled)} rows labelled, {len(found.open)} open")
    if found.open or found.faults:
        raise typer.Exit(1)


@app.command()
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
        _say("not checked against any training data: give it with --against")
    _say(f"{out}: {len(made.samples)} rows; left out: {made.open} open, {len(made.leaks)} that leak")
    if made.open or made.leaks:
        raise typer.Exit(1)


def _select_config(path: Path | None, quota: int | None, agreed_share: float, seed: int) -> SelectConfig:
    from libra_guard.bench.select import SelectConfig

    if path is not None:
        if quota is not None or agreed_share or seed:
            raise UsageError("--config is given: say quota, agreed_share and seed there")
        return SelectConfig.read(path)
    if quota is None:
        raise UsageError("how many rows? Give --quota, rows of each scenario, or --config")
    return SelectConfig(quota=quota, agreed_share=agreed_share, seed=seed)


def _server(url: str) -> LabelStudio:
    import os

    from libra_guard.bench.label_studio import LabelStudio

    return LabelStudio(url, os.environ.get("LABEL_STUDIO_API_KEY", ""))


def _show(found: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    from libra_guard.bench.agreement import ALPHA_LEAST

    table = Table(box=None, pad_edge=False)
    for column in ("", "rows", "unanimous", "Fleiss' kappa", "Krippendorff's alpha"):
        table.add_column(column, justify="right" if column else "left")
    for name, one in found.scenarios.items():
        table.add_row(name, str(one.rows), _figure(one.unanimous), *_with_intervals(one))
    # Below this width the names of the scenarios break into pieces.
    console = Console(highlight=False, width=max(100, Console().width))
    console.print(table)
    for name, person in found.annotators.items():
        of = f"{person.labelled} labels, {person.unsure} 不确定, {person.missing} missing"
        console.print(f"{name}: {_figure(person.with_majority)} with the majority; {of}", soft_wrap=True)
    alphas = {name: one.krippendorff_alpha for name, one in found.scenarios.items()}
    low = [name for name, alpha in alphas.items() if alpha is not None and alpha < ALPHA_LEAST]
    if low:
        _say(f"alpha below {ALPHA_LEAST}, so look at the rules and talk to the annotators: {', '.join(low)}")


def _with_intervals(one: Agreement) -> tuple[str, str]:
    pairs = (
        (one.fleiss_kappa, one.fleiss_kappa_interval),
        (one.krippendorff_alpha, one.krippendorff_alpha_interval),
    )
    kappa, alpha = (_figure(v) + (f" ({_figure(i[0])}–{_figure(i[1])})" if i else "") for v, i in pairs)
    return kappa, alpha


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _say_all(lines: Iterable[str]) -> None:
    told = list(lines)
    for line in told[:SHOWN]:
        _say(line)
    if len(told) > SHOWN:
        _say(f"… and {len(told) - SHOWN} more")


def _say(line: str) -> None:
    typer.echo(line, err=True)
