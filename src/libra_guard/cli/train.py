"""libra train: make guards from data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from libra_guard.cli.options import setting, this_command, with_settings
from libra_guard.configuration import ConfigFile
from libra_guard.errors import require

app = typer.Typer(help="Train guards.", no_args_is_help=True)


Data = Annotated[
    Path, typer.Option(metavar="DIR", file_okay=False, help="Folder that the recipe's paths are relative to.")
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the guard; finished stages in it are kept.")
]
Base = Annotated[str | None, typer.Option(help="Another pretrained model than the recipe's, e.g. a local folder.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Overrides the recipe, e.g. stages.finetune.learning_rate=1e-5. Repeatable."
    ),
]
Kind = TypeVar("Kind", bound=ConfigFile)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _read(kind: type[Kind], path: Path, texts: list[str] | None) -> tuple[Kind, list[str]]:
    """A recipe with what ``--set`` says of it, and the settings that this names."""
    recipe, settings = kind.read(path), dict(map(setting, texts or ()))
    if settings:
        recipe = recipe.changed(settings, with_settings(path, texts))
    return recipe, list(settings)


@app.command()
def classifier(
    recipe: Annotated[Path, typer.Argument(help="YAML, e.g. configs/train/mini.yaml.")],
    out: Out,
    data: Data = Path(),
    base: Base = None,
    settings: Settings = None,
) -> None:
    """Train a classifier guard: a pretrained model by stages, n-grams, or both; then ONNX and a card.

    The guard in DIR/guard is used as `mini:DIR/guard` or, n-grams alone, `ngram:DIR/guard`. DIR/hub is for the hub.
    """
    for module in ("torch", "transformers", "onnx"):
        require(module, "train")
    from libra_guard.train.classifier import train_classifier
    from libra_guard.train.recipe import Recipe

    read, _ = _read(Recipe, recipe, settings)
    result = train_classifier(read, data, out, base=base, command=this_command(), report=_say)
    typer.echo(
        json.dumps({k: result[k] for k in ("name", "threshold", "test", "parity")}, ensure_ascii=False, indent=2)
    )


@app.command()
def generative(
    recipe: Annotated[Path, typer.Argument(help="YAML, e.g. configs/train/qwen2.5-0.5b.yaml.")],
    out: Out,
    data: Data = Path(),
    base: Base = None,
    settings: Settings = None,
) -> None:
    """Train a generative Libra guard: a causal language model, by stages, with LoRA or all weights.

    The guard in DIR/guard is used as `libra:DIR/guard`. Runs on several processes under `accelerate launch`.
    """
    for module in ("torch", "transformers", "peft", "trl"):
        require(module, "train")
    from libra_guard.train.generative import train_generative
    from libra_guard.train.generative_recipe import GenerativeRecipe

    read, typed = _read(GenerativeRecipe, recipe, settings)
    result = train_generative(read, data, out, base=base, command=this_command(), typed=typed, report=_say)
    if result:
        typer.echo(json.dumps({k: result[k] for k in ("name", "threshold", "test")}, ensure_ascii=False, indent=2))


@app.command()
def ablate(
    study: Annotated[Path, typer.Argument(help="YAML, e.g. configs/ablate/libra-seed.yaml.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the runs; finished ones in it are kept.")
    ],
    data: Data = Path(),
    base: Base = None,
) -> None:
    """Train one recipe in several ways with several seeds, and compare them in a table and a plot."""
    for module in ("torch", "transformers", "onnx", "matplotlib"):
        require(module, "train")
    from libra_guard.train.ablation import ablate, markdown

    typer.echo(markdown(ablate(study, data, out, base=base, command=this_command(), report=_say)))


@app.command()
def adversarial(
    settings: Annotated[Path, typer.Argument(help="YAML, e.g. configs/adversarial/servers.yaml.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the rounds; what is done in it is kept.")
    ],
    data: Data = Path(),
    base: Base = None,
) -> None:
    """Train a classifier in rounds: a model writes what it gets wrong, and it learns that, until the gain stops.

    The best round's guard stands in DIR/guard.
    """
    for module, extra in (("torch", "train"), ("transformers", "train"), ("onnx", "train"), ("rensa", "synth")):
        require(module, extra)
    from libra_guard.synth.adversarial.rounds import adversarial_rounds

    result = adversarial_rounds(settings, data, out, base=base, command=this_command(), report=_say)
    typer.echo(json.dumps({key: result[key] for key in ("best", "ended", "rounds")}, ensure_ascii=False, indent=2))


@app.command()
def card(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="The --out folder of a finished training.")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="The base's name on the model hub, if a copy was trained.")
    ] = None,
) -> None:
    """Write the model cards of a finished training again, from its train.json; prints their names.

    An adapter looks for its base under the name that --base gives, from then on.
    """
    from libra_guard.train.card import rewrite_cards

    for path in rewrite_cards(run, base=base):
        typer.echo(path)
