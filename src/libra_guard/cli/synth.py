"""``libra synth``: the data pipeline, as a whole and step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from libra_guard.cli.options import part_of, setting, with_settings
from libra_guard.configuration import put
from libra_guard.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from libra_guard.synth.config import SynthConfig
    from libra_guard.synth.run import Outcome

app = typer.Typer(help="Make training data: from elements to a two-stage data set.", no_args_is_help=True)


def _found(config: Path) -> Path:
    from libra_guard.synth.config import SynthConfig

    return SynthConfig.find(config)


ConfigArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG.yaml",
        help="Settings: a file, or offline, local-lm or servers, which come with the package.",
        callback=_found,
    ),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", file_okay=False, help="Folder of the run; an interrupted run goes on.")
]
DataOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder that the settings' paths of public sets are relative to.")
]
StoreOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where calls are kept; by default calls.sqlite in the run's folder.")
]
ShardOption = Annotated[str, typer.Option(metavar="R/N", help="Part R (from 0) of N, of the steps that can be cut.")]
EngineOption = Annotated[str, typer.Option(help="Where `dedup` signs and compares texts: local, or ray, a cluster.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. queries.harmful=5. Repeatable."),
]


def _command(name: str, about: str) -> None:
    def command(
        config: ConfigArgument,
        out: OutOption,
        data: DataOption = Path("."),
        store: StoreOption = None,
        shard: ShardOption = "0/1",
        engine: EngineOption = "local",
        settings: SetOption = None,
    ) -> None:
        _do(None if name == "run" else name, config, out, data, store, shard, engine, settings)

    app.command(name, help=about)(command)


for _name, _about in {
    "run": "Do all steps: elements, queries, augment, import, dedup, respond, annotate, split.\n\n"
    "What is done is not done again: a run that was stopped goes on.",
    "elements": "Read the lists of elements; the writer adds to them, if asked.",
    "queries": "Combine elements into queries.",
    "augment": "Add rewritten, paraphrased and red-teamed queries.",
    "import": "Import real queries; translate English ones.",
    "dedup": "Drop duplicates, and what stands in a benchmark.",
    "respond": "Let several models answer.",
    "annotate": "Let the judges vote, and the arbiter decide where they differ.",
    "split": "Write the two stages and the data card.",
}.items():
    _command(_name, _about)


def _do(
    step: str | None,
    config: Path,
    out: Path,
    data: Path,
    store: Path | None,
    shard: str,
    engine: str,
    settings: list[str] | None,
) -> None:
    from libra_guard.data.near_duplicates import Engine
    from libra_guard.predict.show import bars, tell
    from libra_guard.synth.run import Run

    if engine not in list(Engine):
        raise UsageError(f"--engine is one of {', '.join(Engine)}, not '{engine}'")
    found = read_config(config, settings)
    if found.few_responders and step in (None, "respond"):
        typer.echo(f"note: {found.few_responders}", err=True)
    with bars() as bar:
        made = Run(
            found,
            out,
            data=data,
            beside=config.parent,
            store=store,
            shard=part_of(shard),
            engine=Engine(engine),
            progress=bar_of_step(bar),
            say=partial(tell, bar),
            tell=lambda outcome: tell(bar, _told(outcome)),
        )
        outcomes = made.do(step) if step else made.go()
    # Duplicates and the like are what the steps are for; a row that a model failed on is a loss.
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


def read_config(path: Path, settings: list[str] | None) -> SynthConfig:
    """The settings of a file, with those of ``--set`` in their places.

    Raises:
        UsageError: The file or a setting is wrong.
    """
    from libra_guard.synth.config import SynthConfig

    found = SynthConfig.unchecked(path)
    for text in settings or ():
        if not put(found, *setting(text)):
            raise UsageError(f"--set {text}: write KEY=VALUE, a key of mappings with points between")
    return SynthConfig.checked(found, with_settings(path, settings))


def _told(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"{outcome.step}: {outcome.rows} rows stand there{', changed by hand' if outcome.edited else ' already'}"
    lost = f", {outcome.failed} of them lost to failing models: run again to try these" if outcome.failed else ""
    lines = [f"{outcome.step}: {outcome.rows} rows, {outcome.rejects} rejects{lost}"]
    reasons = outcome.reasons
    if outcome.step == "split":
        reasons = outcome.figures["left_out"]
        lines = [
            f"split: {outcome.figures['stage1']} in stage1, {outcome.figures['stage2']} in stage2, "
            f"{sum(reasons.values())} left out"
        ]
    lines += [f"  {count} × {reason}" for reason, count in sorted(reasons.items(), key=lambda one: -one[1])[:5]]
    unreadable: dict[str, int] = outcome.figures.get("unreadable", {})
    lines += [f"  {count} × the judge {name} could not be read" for name, count in unreadable.items() if count]
    again: dict[str, dict[str, int]] = outcome.figures.get("asked_again", {})
    for name, why in again.items():
        lines.append(f"  {name} was asked again: " + ", ".join(f"{count} × {reason}" for reason, count in why.items()))
    lacking: dict[str, int] = outcome.figures.get("lacking", {})
    what = "lines" if outcome.step == "elements" else "queries"
    lines += [f"  {name} lacks {count} {what}" for name, count in sorted(lacking.items(), key=lambda one: -one[1])[:5]]
    if len(lacking) > 5:
        lines.append(f"  and {len(lacking) - 5} more lack some, {sum(lacking.values())} {what} in all")
    for one in outcome.figures.get("contamination", ()):
        unread = f", {one['unread']} could not be read" if one["unread"] else ""
        lines.append(f"  {one['hits']} queries near {one['file']} ({one['rows']} questions{unread})")
    return "\n".join(lines)


def bar_of_step(bar: Progress) -> Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]:
    """For ``Work.progress``: a bar for each step."""

    @contextmanager
    def one(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        task = bar.add_task(name, total=total)
        yield partial(bar.advance, task)

    return one
