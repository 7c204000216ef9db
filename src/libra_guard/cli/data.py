"""``libra data``: which public data sets can be read, and turning a copy of one into samples or questions."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from libra_guard.cli.options import spare_inputs
from libra_guard.errors import UsageError

app = typer.Typer(help="Public data sets: what can be read, and reading it.", no_args_is_help=True)
_HEADS = {
    "samples": "Samples: a question, its answer, and a label of the answer",
    "both": "Samples, and questions where there is no answer or no label of it",
    "questions": "Questions alone, to be answered and judged; for training they are refused",
}


@app.command("list")
def list_datasets(as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False) -> None:
    """Which data sets can be read, where they are, their licence, and what their labels are worth."""
    from libra_guard.data.registry import DATASETS, load_importer

    infos = [load_importer(name).info for name in DATASETS]
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos], ensure_ascii=False, indent=2))
        return
    for holds, head in _HEADS.items():
        typer.echo(f"{head}\n")
        for info in (info for info in infos if info.holds == holds):
            may = "yes" if info.bundled_training else "no"
            typer.echo(f"{info.name}: {info.title} [{info.language}]")
            typer.echo(f"  {info.address}{f' ({info.revision})' if info.revision else ''}")
            typer.echo(f"  licence: {info.licence}; may train the bundled guard: {may}")
            typer.echo(f"  labels: {info.label_worth}\n")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A name from `libra data list`.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A file or folder, or hf://owner/name with @revision, :split or :config/split behind it; by default "
            "its address on the hub.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSONL file; by default stdout.")] = None,
) -> None:
    """Writes a data set's samples, or its questions, as JSON lines.

    What makes none is counted by reason on stderr, and kept beside OUT as OUT's stem with .rejects.jsonl; then
    the exit code is 1. OUT appears only when it is whole.
    """
    source = _on_the_hub(name) if source is None else source
    rejects = out and out.with_name(f"{out.stem}.rejects.jsonl")
    spare_inputs([path for path in (out, rejects) if path], [source])
    written, reasons = _write(name, source, out, rejects)
    counts = ", ".join(f"{count} {kind}" for kind, count in written.items())
    typer.echo(f"{name}: {counts or 'nothing'}, {reasons.total()} rejects", err=True)
    for reason, count in reasons.most_common(10):
        typer.echo(f"  {count} × {reason}", err=True)
    if rejects and reasons:
        typer.echo(f"  kept in {rejects}", err=True)
    if reasons:
        raise typer.Exit(1)


def _on_the_hub(name: str) -> str:
    from libra_guard.data.registry import load_importer

    info = load_importer(name).info
    if info.hub is None:
        form = f" ({info.revision})" if info.revision else ""
        raise UsageError(
            f"{name} cannot be read from the Hugging Face Hub: download it from {info.address}{form}, "
            f"then call libra data get {name} --from PATH with the file or folder"
        )
    return info.address


def _write(name: str, source: str, out: Path | None, rejects: Path | None) -> tuple[Counter[str], Counter[str]]:
    from libra_guard.data.registry import load_dataset_rows
    from libra_guard.io import BadRow, atomic, dumps
    from libra_guard.records import Sample

    written, reasons = Counter[str](), Counter[str]()
    with ExitStack() as stack:
        # The rejects stand before OUT does.
        good, bad = (stack.enter_context(atomic(path)) if path else None for path in (out, rejects))
        for item in load_dataset_rows(name, source):
            if isinstance(item, BadRow):
                reasons[item.reason] += 1
                if bad:
                    bad.write(dumps(item._asdict()) + "\n")
                continue
            written["samples" if isinstance(item, Sample) else "questions"] += 1
            line = dumps(item.model_dump(mode="json"))
            typer.echo(line) if good is None else good.write(line + "\n")
    if rejects and not reasons:
        rejects.unlink()
    return written, reasons
