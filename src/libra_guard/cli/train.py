"""libra train: make guards from data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from libra_guard.errors import require

app = typer.Typer(help="Train guards.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `classifier` a command of its own while it is the only one."""


@app.command()
def classifier(
    recipe: Annotated[Path, typer.Argument(help="YAML, e.g. configs/train/mini.yaml.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the guard; finished stages in it are kept.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder that the recipe's paths are relative to.")
    ] = Path(),
    base: Annotated[str | None, typer.Option(help="Another pretrained encoder, e.g. a local folder.")] = None,
) -> None:
    """Train a classifier guard: an encoder by stages, n-grams, or both; then ONNX and a card.

    The guard in DIR/guard is used as `mini:DIR/guard` or, n-grams alone, `ngram:DIR/guard`.
    """
    for module in ("torch", "transformers", "onnx"):
        require(module, "train")
    from libra_guard.train.classifier import train_classifier
    from libra_guard.train.recipe import Recipe

    result = train_classifier(
        Recipe.read(recipe), data, out, encoder_base=base, report=lambda line: typer.echo(line, err=True)
    )
    typer.echo(
        json.dumps({k: result[k] for k in ("name", "threshold", "test", "parity")}, ensure_ascii=False, indent=2)
    )
