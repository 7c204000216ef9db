"""``libra data``: which public data sets can be read, and turning a copy of one into samples."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from libra_guard.errors import UsageError

app = typer.Typer(help="Public data sets: what can be read, and reading it.", no_args_is_help=True)


@app.command("list")
def list_datasets(as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False) -> None:
    """Which data sets can be read, where they are, their licence, and what their labels are worth."""
    from libra_guard.data.registry import DATASETS, load_importer

    infos = [load_importer(name).info for name in DATASETS]
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos], ensure_ascii=False, indent=2))
        return
    for info in infos:
        typer.echo(f"{info.name}: {info.title}")
        typer.echo(f"  {info.address}{f' ({info.revision})' if info.revision else ''}")
        typer.echo(
            f"  licence: {info.licence}; may train the bundled guard: {'yes' if info.bundled_training else 'no'}"
        )
        typer.echo(f"  labels: {info.label_worth}")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A name from `libra data list`.")],
    source: Annotated[str, typer.Option("--from", help="A file or folder, or hf://owner/name.")],
    out: Annotated[Path | None, typer.Option(help="A JSONL file; by default stdout.")] = None,
) -> None:
    """Writes a data set's samples as JSON lines.

    What makes no sample is counted by reason on stderr, and kept beside OUT as OUT's stem with .rejects.jsonl; then
    the exit code is 1. OUT appears only when it is whole.
    """
    rejects = out and out.with_name(f"{out.stem}.rejects.jsonl")
    for path in filter(None, (out, rejects)):
        if Path(source).exists() and path.exists() and path.samefile(source):
            raise UsageError(f"{path}: would overwrite the data set itself")
    written, reasons = _write(name, source, out, rejects)
    typer.echo(f"{name}: {written} samples, {reasons.total()} rejects", err=True)
    for reason, count in reasons.most_common(10):
        typer.echo(f"  {count} × {reason}", err=True)
    if rejects and reasons:
        typer.echo(f"  kept in {rejects}", err=True)
    if reasons:
        raise typer.Exit(1)


def _write(name: str, source: str, out: Path | None, rejects: Path | None) -> tuple[int, Counter[str]]:
    from libra_guard.data.registry import load_dataset_rows
    from libra_guard.io import BadRow, atomic, dumps

    written, reasons = 0, Counter[str]()
    with ExitStack() as stack:
        # The rejects stand before OUT does.
        good, bad = (stack.enter_context(atomic(path)) if path else None for path in (out, rejects))
        for item in load_dataset_rows(name, source):
            if isinstance(item, BadRow):
                reasons[item.reason] += 1
                if bad:
                    bad.write(dumps(item._asdict()) + "\n")
                continue
            written += 1
            line = dumps(item.model_dump(mode="json"))
            typer.echo(line) if good is None else good.write(line + "\n")
    if rejects and not reasons:
        rejects.unlink()
    return written, reasons
