"""An ablation study: one recipe, changed in named ways, trained with several seeds, and compared.

libra train ablate configs/ablate/libra-seed.yaml --data DATA --out runs/libra-seed
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from libra_guard.configuration import ConfigFile, Strict, at, read_yaml
from libra_guard.errors import UsageError, require
from libra_guard.io import write_atomic
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.mixture import Reader, check_mixture
from libra_guard.train.plots import plot_ablation
from libra_guard.train.provenance import finished
from libra_guard.train.recipe import Recipe

Report = Callable[[str], None]
Parts = dict[str, Any]
AnyRecipe = Recipe | GenerativeRecipe


class Variant(Strict):
    """One way of changing the recipe; an empty one leaves it as it is."""

    stages: list[str] | None = Field(default=None, min_length=1)
    """Only these stages, in this order: one stage alone, or the curriculum turned round."""
    mixture: bool = False
    """All stages' data in one stage, each shown as often as its own stage shows it; else as the first is trained."""
    without: list[str] = Field(default_factory=list)
    """Sets that nothing is trained or calibrated on; they are still tested."""
    share: dict[str, float] = Field(default_factory=dict)
    """Of a stage's data only this share of each source's questions."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Other values for settings: ``stages.finetune.epochs: 1``. Stages go by name, sources by the name that they were
    given, others by number from 0."""

    @field_validator("share")
    @classmethod
    def _is_share(cls, value: dict[str, float]) -> dict[str, float]:
        if wrong := [f"{name}: {share}" for name, share in value.items() if not 0 < share <= 1]:
            raise ValueError(f"a share is over 0 and at most 1; {', '.join(wrong)}")
        return value

    def apply(self, recipe: AnyRecipe, place: str) -> AnyRecipe:
        """The changed recipe; the one given stays as it is.

        Args:
            recipe: What is changed: first its settings, then its stages.
            place: Where the variant stands, for messages.

        Raises:
            UsageError: There is no such setting, stage or set, or what comes out is no valid recipe.
        """
        recipe = recipe.changed(self.set, place)
        sets = dict.fromkeys(source.set for source in recipe.fitted_on)
        for name in self.without:
            _need(name, sets, f"{place}: without: the recipe has no set")
        parts = _parts(recipe)
        if isinstance(recipe, GenerativeRecipe):
            # A stage keeps what it inherits in the whole recipe, wherever the variant puts it.
            parts["stages"] = [stage.model_dump(mode="json", exclude_none=True) for stage in recipe.resolved]
        stages = {stage["name"]: stage for stage in parts.get("stages", [])}
        for name in [*self.share, *(self.stages or ())]:
            _need(name, stages, f"{place}: the recipe has no stage")
        for name, share in self.share.items():
            for source in stages[name]["data"]:
                source["share"] = share
        kept = [stages[name] for name in self.stages or stages]
        if self.mixture and not kept:
            raise UsageError(f"{place}: mixture: the recipe has no stages")
        if self.mixture:
            kept = [_mixed(kept, place)]
        parts["stages"] = kept
        for sources in _fitted(parts):
            sources[:] = [source for source in sources if source["set"] not in self.without]
        return type(recipe).checked(parts, place)


class Study(ConfigFile):
    """What is compared."""

    kind = "ablation study"

    recipe: str
    """The recipe that the variants change, relative to the study's file."""
    seeds: list[int] = Field(min_length=1)
    seeded: str = "seed"
    """The setting that takes the seed: ``stages.finetune.seed`` varies that stage alone."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Other values for settings, in all variants."""
    variants: dict[str, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError("seeds: one stands there twice")
        if wrong := [name for name in self.variants if not re.fullmatch(r"[\w-][\w .%-]*", name)]:
            raise ValueError(f"variants: {wrong[0]!r} is no name for a folder")
        return self

    def recipes(self, path: str | Path) -> dict[tuple[str, int], AnyRecipe]:
        """The recipe of each run, by variant and seed.

        Args:
            path: The study's own file.

        Raises:
            UsageError: The recipe cannot be read, a variant makes no valid recipe of it, or the variants are not all
                tested on the same sets.
        """
        base = read_recipe(Path(path).parent / self.recipe).changed(self.set, path)
        made = {}
        for name, variant in self.variants.items():
            place = f"{path}: variants.{name}"
            changed = variant.apply(base, place)
            for seed in self.seeds:
                made[name, seed] = changed.changed({self.seeded: seed}, f"{place}: seeded")
        if not base.test or any(recipe.test != base.test for recipe in made.values()):
            raise UsageError(f"{path}: all variants must be tested on the same sets, one at least")
        return made


def ablate(
    path: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    command: str | None = None,
    report: Report,
) -> dict[str, Any]:
    """Trains every variant with every seed, and writes ``ablation.json``, ``ablation.md`` and ``ablation.svg``.

    A run that stands in ``out`` and was made of the same recipe and data is not trained again; stages with which
    several runs begin are trained once.

    Args:
        path: The study's YAML file.
        data: Folder that the recipes' paths are relative to.
        out: Folder for the runs, each in ``VARIANT/seed-N``, and for the results.
        base: Overrides the recipes' base, e.g. with a local folder.
        command: What was typed, for the runs' records.
        report: Called with lines for people.

    Returns:
        What ``ablation.json`` holds: of each variant, set and metric the mean and the standard deviation over the
        seeds; how many examples each seed's training was shown; and every run's provenance.

    Raises:
        UsageError: The study makes no sense, the data of a variant are not what it needs, or a run cannot be trained.
        MissingExtraError: matplotlib is not installed.
    """
    # Here, and not where it is used: a missing library must show before hours of training, not after.
    require("matplotlib", "train")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a study runs in one process; use several for its runs one by one, with `libra train`")
    out = Path(out)
    study = Study.read(path)
    recipes = study.recipes(path)
    _check_data({f"{path}: variants.{name}": recipes[name, study.seeds[0]] for name in study.variants}, data)
    runs = {}
    for number, ((name, seed), recipe) in enumerate(recipes.items(), 1):
        folder = out / name / f"seed-{seed}"
        report(f"run {number} of {len(recipes)}: {name}, seed {seed}")
        runs[name, seed] = finished(folder, recipe, data, base) or _trainer(recipe)(
            recipe, data, folder, base=base, shared_stages=out / "stages", command=command, report=report
        )
    result = {
        "study": study.model_dump(mode="json"),
        "shown": {
            name: [_shown(recipes[name, seed], runs[name, seed]) for seed in study.seeds] for name in study.variants
        },
        "results": {name: _over_seeds([runs[name, seed]["test"] for seed in study.seeds]) for name in study.variants},
        "runs": {f"{name}, seed {seed}": run for (name, seed), run in runs.items()},
    }
    write_atomic(out / "ablation.json", json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    write_atomic(out / "ablation.md", markdown(result) + "\n")
    plot_ablation(out / "ablation.svg", result["results"])
    return result


def _check_data(recipes: dict[str, AnyRecipe], data: str | Path) -> None:
    """Looks at what every variant reads, before the first one is trained; with any seed the sources are the same."""
    read = Reader(data, seed=0)
    for place, recipe in recipes.items():
        with at(place):
            check_mixture(recipe, read.afresh(recipe.draws))


def markdown(result: dict[str, Any]) -> str:
    """What ``ablate`` returns as a table: how much each variant was shown, and of each set the metrics of ``shown``."""
    rows = [(name, system, sets) for name, systems in result["results"].items() for system, sets in systems.items()]
    sets = rows[0][2]
    heads = [f"{name}: {' / '.join(shown(found))}" for name, found in sets.items()]
    lines = ["| variant | examples shown | part | " + " | ".join(heads) + " |", "|---|--:|---|" + "--:|" * len(heads)]
    for name, system, found in rows:
        cells = [name, f"{round(mean(result['shown'][name])):,}", system, *(_cell(found[s]) for s in sets)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(found: dict[str, Any]) -> list[str]:
    """The metrics that tell most about a set: where all are safe or all unsafe, only how many were flagged."""
    both = ["accuracy", "f1_unsafe", "auc"]
    return both if "auc" in found else [m for m in ("over_refusal", "recall_unsafe") if m in found]


def _cell(found: dict[str, Any]) -> str:
    return " / ".join(_number(found[m]) for m in shown(found))


def _number(value: dict[str, Any]) -> str:
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


def _over_seeds(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """System → set → metric → mean and standard deviation; metrics that a set does not have are left out."""
    return {
        system: {
            name: {
                metric: _spread([test[system][name][metric] for test in tests])
                for metric in found
                if all(isinstance(test[system][name][metric], float) for test in tests)
            }
            for name, found in sets.items()
        }
        for system, sets in tests[0].items()
    }


def _spread(values: list[float]) -> dict[str, float | None]:
    """One value has no standard deviation."""
    return {"mean": round(mean(values), 4), "sd": round(stdev(values), 4) if len(values) > 1 else None}


def read_recipe(path: str | Path) -> AnyRecipe:
    """A recipe of either kind: one for a generative guard names its ``model``.

    Raises:
        UsageError: The file cannot be read, or has a wrong or unknown key.
    """
    settings = read_yaml(path)
    kind = GenerativeRecipe if isinstance(settings, dict) and "model" in settings else Recipe
    return kind.checked(settings, path)


def _trainer(recipe: AnyRecipe) -> Callable[..., dict[str, Any]]:
    # Each imports what it trains with, which the other does not need.
    if isinstance(recipe, GenerativeRecipe):
        from libra_guard.train.generative import train_generative

        return train_generative
    from libra_guard.train.classifier import train_classifier

    return train_classifier


def _parts(recipe: AnyRecipe) -> Parts:
    """What a recipe says; what it leaves open stays open, for a stage inherits that from the one before."""
    return recipe.model_dump(mode="json", exclude_unset=True)


def _mixed(stages: list[Parts], place: str) -> Parts:
    """The first stage with the data of all, and an epoch that shows each as often as its own stage does in all."""
    data = []
    for stage in stages:
        if (epochs := stage.get("epochs", 1)) != int(epochs):
            raise UsageError(f"{place}: mixture: stage '{stage['name']}' has {epochs} epochs; whole ones can be mixed")
        data += [{**source, "repeat": source.get("repeat", 1) * int(epochs)} for source in stage["data"]]
    return {**stages[0], "name": "mixture", "epochs": 1, "data": data}


def _shown(recipe: AnyRecipe, run: dict[str, Any]) -> int:
    """How many examples a run was shown, epoch by epoch; of n-grams alone, how many these were fitted on."""
    stages = recipe.resolved if isinstance(recipe, GenerativeRecipe) else recipe.stages
    counts = run["samples"] if isinstance(recipe, GenerativeRecipe) else run["examples"]["stages"]
    shown: list[tuple[dict[str, dict[str, int]], float]]
    shown = [(counts[stage.name], stage.epochs) for stage in stages] or [(run["examples"]["ngrams"], 1)]
    return round(sum(epochs * count for sets, epochs in shown for found in sets.values() for count in found.values()))


def _need(name: str, names: Iterable[str], problem: str) -> None:
    if name not in names:
        raise UsageError(f"{problem} '{name}'; it has {', '.join(names) or 'none'}")


def _fitted(recipe: Parts) -> Iterator[list[Parts]]:
    """The lists of sources that something is trained or calibrated on."""
    for stage in recipe.get("stages", []):
        yield stage["data"]
    if recipe.get("ngrams"):
        yield recipe["ngrams"]["data"]
    for name in ("data", "benign", "questions"):
        yield (recipe.get("calibration") or {}).get(name, [])
