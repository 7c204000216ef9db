"""libra bench: make a benchmark with people, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.cli import bench_people
from libra_guard.cli.bench_people import Against
from libra_guard.cli.bench_shown import say, say_all
from libra_guard.cli.options import spare_inputs
from libra_guard.errors import UsageError

if TYPE_CHECKING:
    from libra_guard.bench.select import SelectConfig

app = typer.Typer(
    help="Make a benchmark of the Libra-Test kind: hard rows, rounds of annotation, agreement, release.",
    no_args_is_help=True,
)


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

    Beside FILE, its stem with .rejects.jsonl and .leaks.jsonl holds what was left out, with .select.json how the
    rows were selected; `libra bench round` takes that along.

    Exit status: 0 done, 1 done but rows could not be read, leak, or are missing in a quota, or judges or sources are
    odd, 2 wrong use.
    """
    from dataclasses import asdict

    from libra_guard.bench import provenance
    from libra_guard.bench.rows import as_lines
    from libra_guard.bench.select import select as choose
    from libra_guard.cli.options import this_command
    from libra_guard.io import bytes_hash, write_atomic

    judges, settings = judge or [], _select_config(config, quota, agreed_share, seed)
    kept = {name: out.with_name(f"{out.stem}.{name}.jsonl") for name in ("rejects", "leaks")}
    told = provenance.selection_path(out)
    spare_inputs([out, told, *kept.values()], [data, *judges, *(against or []), *([config] if config else [])])
    chosen = choose(data, judges, settings, against or [])
    left_out = {"rejects": [bad._asdict() for bad in chosen.rejects], "leaks": [asdict(leak) for leak in chosen.leaks]}
    for name, records in left_out.items():
        write_atomic(kept[name], as_lines(records))
    named, text = provenance.judges_of(chosen, judges, data), as_lines(row.as_dict() for row in chosen.rows)
    write_atomic(out, text)
    dump, made_by = settings.model_dump(), {"rows_hash": bytes_hash(text.encode()), "command": this_command()}
    write_atomic(told, provenance.describe(chosen, data, named, dump, against or [], **made_by))
    for filled in chosen.filled:
        say(f"{filled}{f'; {filled.short} missing' if filled.short else ''}")
    if chosen.no_scenario:
        say(f"{chosen.no_scenario} rows are of no scenario, as everyday questions are: no quota asks for them")
    complaints = [*chosen.complaints, *provenance.one_guard_twice(named)]
    say_all(complaints)
    counts = "".join(f", {len(records)} {name}" for name, records in left_out.items() if records)
    say(f"{out}: {len(chosen.rows)} rows{counts}")
    if counts or complaints or any(filled.short for filled in chosen.filled):
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

    Exit status: 0 done, 1 done but rows could not be taken (DIR/rejects.jsonl), or FILE is not what
    `libra bench select` wrote, 2 wrong use.
    """
    from libra_guard.bench.provenance import read_selection
    from libra_guard.bench.rounds import Round
    from libra_guard.bench.rows import as_lines, read_bench_rows
    from libra_guard.io import BadRow, write_atomic

    found = list(read_bench_rows(rows))
    rejects = [item for item in found if isinstance(item, BadRow)]
    taken = [item[0] for item in found if not isinstance(item, BadRow)]
    if not taken:
        raise UsageError(f"{rows}: no row that could be labelled" + (f": {rejects[0].reason}" if rejects else ""))
    selection, wrong = read_selection(Path(rows))
    one, made = Round.open_or_make(out, name, taken, annotator, seed, selection)
    write_atomic(out / "rejects.jsonl", as_lines(reject._asdict() for reject in rejects))
    say_all(f"{bad.file}:{bad.line}: {bad.reason}" for bad in rejects)
    if wrong:
        say(wrong)
    say(f"{out}: {len(taken)} rows for {', '.join(one.annotators)}" + ("" if made else "; it stands there already"))
    if rejects or wrong:
        raise typer.Exit(1)


for command in (bench_people.send, bench_people.collect, bench_people.agree, bench_people.release):
    app.command()(command)


def _select_config(path: Path | None, quota: int | None, agreed_share: float, seed: int) -> SelectConfig:
    from libra_guard.bench.select import SelectConfig

    if path is not None:
        if quota is not None or agreed_share or seed:
            raise UsageError("--config is given: say quota, agreed_share and seed there")
        return SelectConfig.read(path)
    if quota is None:
        raise UsageError("how many rows? Give --quota, rows of each scenario, or --config")
    return SelectConfig(quota=quota, agreed_share=agreed_share, seed=seed)
