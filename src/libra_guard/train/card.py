"""The model cards that a training run writes beside its guard; they can be written again from its ``train.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError

from libra_guard.configuration import read_object
from libra_guard.data.registry import load_importer
from libra_guard.errors import UsageError
from libra_guard.io import ADAPTER, write_atomic
from libra_guard.plaintext import plain_text
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.outputs import Outputs
from libra_guard.train.provenance import hub_name, named_base
from libra_guard.train.recipe import Recipe

_HUB_ADDRESS = re.compile(r"(?:hf://|https://huggingface\.co/datasets/)([\w.-]+/[\w.-]+)")


def write_cards(out: Path, recipe: Recipe, result: dict[str, Any]) -> list[Path]:
    """Writes the card of a classifier run's guard and, where there is one, of its form for the model hub.

    A card says what the guard was trained on and under which licences, how, how well, and what it is not for.

    Args:
        out: The run's folder.
        recipe: What was done.
        result: What ``train_classifier`` returns.

    Returns:
        The files.
    """
    forms = {"guard": "onnx"} | ({"hub": result["hub"]["form"]} if result.get("hub") else {})
    outputs = Outputs.of(recipe.outputs)
    return [
        _write(out / folder / "README.md", "card.md.j2", recipe, result, form=form, outputs=outputs)
        for folder, form in forms.items()
    ]


def write_generative_card(path: Path, recipe: GenerativeRecipe, result: dict[str, Any]) -> Path:
    """The same for what ``train_generative`` returns.

    Args:
        path: Of the Markdown file.
        recipe: What was done.
        result: What the run found.
    """
    return _write(path, "generative_card.md.j2", recipe, result)


def rewrite_cards(run: Path, *, base: str | None = None) -> list[Path]:
    """Writes a finished run's cards again, from its ``train.json``.

    Args:
        run: Folder that a training of either kind wrote.
        base: The base's name on the model hub, where the run was given a copy of it. It goes into ``train.json`` too,
            and into an adapter, which looks for its base under this name from then on.

    Returns:
        The files.

    Raises:
        UsageError: No training is told of there, its guard is gone, the base's name is none, or the guard has no base.
    """
    path = run / "train.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name the --out folder of a finished training") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    settings = result.get("provenance", {}).get("recipe") if isinstance(result, dict) else None
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: tells of no training")
    for folder in ("guard", *(["hub"] if result.get("hub") else [])):
        if not (run / folder).is_dir():
            raise UsageError(f"{run / folder}: no such folder; a card stands beside its model")
    if base is not None:
        if "model" not in settings and not settings.get("encoder"):
            raise UsageError(f"--base {base}: the guard in {run} was started from no pretrained model")
        _name_base(run, result, base)
    try:
        if "model" in settings:
            recipe = GenerativeRecipe.checked(settings, path)
            return [write_generative_card(run / "guard" / "README.md", recipe, result)]
        return write_cards(run, Recipe.checked(settings, path), result)
    except (TemplateError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{path}: a card needs more than it says: {error}") from None


def _name_base(run: Path, result: dict[str, Any], base: str) -> None:
    if "/" not in base or not hub_name(base):
        raise UsageError(f"--base {base}: a name on the model hub is OWNER/NAME")
    result |= {"base": base, "base_model": base}
    adapter = run / "guard" / ADAPTER
    if adapter.exists():
        settings = read_object(adapter) | {"base_model_name_or_path": base}
        write_atomic(adapter, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
    write_atomic(run / "train.json", json.dumps(result, ensure_ascii=False, indent=2) + "\n")


def _write(path: Path, name: str, recipe: Recipe | GenerativeRecipe, result: dict[str, Any], **more: Any) -> Path:
    named = result.get("base") or recipe.base
    # Earlier versions' runs do not tell whether their base was a folder.
    base, base_model = named and named_base(named), result.get("base_model", named and hub_name(named))
    template = plain_text("train").get_template(name)
    text = template.render(
        recipe=recipe,
        recipe_yaml=yaml.safe_dump(_brief(recipe), allow_unicode=True, sort_keys=False).strip(),
        sets=(sets := _sets(recipe)),
        datasets=[found[1] for one in sets if (found := _HUB_ADDRESS.match(one["address"]))],
        languages=list(dict.fromkeys(one["language"] for one in sets)),
        **{**result, **more, "base": base, "base_model": base_model},
    )
    write_atomic(path, text)
    return path


def _brief(recipe: Recipe | GenerativeRecipe) -> dict[str, Any]:
    """The recipe's settings; of a base in a folder the name alone, for the way to it is nobody else's."""
    told = recipe.brief
    for part in ("model", "encoder"):
        if part in told and recipe.base:
            told[part]["base"] = named_base(recipe.base)
    return told


def _sets(recipe: Recipe | GenerativeRecipe) -> list[dict[str, str]]:
    """The sets that were trained or calibrated on, once each, with their licences."""
    infos = [load_importer(name).info for name in dict.fromkeys(source.set for source in recipe.fitted_on)]
    return [{field: getattr(i, field) for field in ("name", "title", "address", "licence", "language")} for i in infos]
