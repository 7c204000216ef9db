"""Guards of a study compared where they flag the same share of ordinary talk, whatever threshold each has chosen.

    python benchmarks/equal_false_positives.py configs/ablate/libra-seed.yaml --runs runs/libra-seed --data DATA \
        --benign alpaca-zh --out results/libra-seed-mini-equal.json

Each run's threshold is moved until its guard flags the given share of the benign set's test pairs, which are nobody's
training data here. Writes recall, F1-unsafe and accuracy on the sets with both labels: mean and standard deviation over
the seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from libra_guard import Conversation, load_guard
from libra_guard.io import write_atomic
from libra_guard.train.ablation import Study
from libra_guard.train.classifier import metrics
from libra_guard.train.mixture import Example, Reader, Split
from libra_guard.train.recipe import Recipe

SHARES = (0.01, 0.03, 0.05, 0.1)
SHOWN = ("accuracy", "f1_unsafe", "recall_unsafe")


def tested(recipes: list[Recipe], data: Path) -> list[Example]:
    """The test pairs, whose questions no variant was trained or calibrated on."""
    reader = Reader(data, seed=recipes[0].draws)
    for recipe in recipes:
        taught = [source for stage in recipe.stages for source in stage.data]
        reader.read(taught + (recipe.ngrams.data if recipe.ngrams else []), Split.TRAIN)
        reader.read(recipe.calibration.data + recipe.calibration.benign, Split.CALIBRATE)
    return [e for e in reader.read(recipes[0].test, Split.TEST) if not isinstance(e.text, str)]


def scores(folder: Path, rows: list[Example]) -> np.ndarray:
    """Unsafe scores of a run's guard."""
    verdicts = load_guard(f"mini:{folder}").judge([Conversation.from_pair(*e.text) for e in rows])
    return np.array([np.nan if v.unsafe_score is None else v.unsafe_score for v in verdicts])


def at_share(found: np.ndarray, rows: list[Example], benign: str, share: float) -> dict[str, Any]:
    """Metrics by set at the threshold that flags such a share of the benign set."""
    sets, unsafe = np.array([e.source for e in rows]), np.array([e.unsafe for e in rows])
    limit = float(np.nextafter(np.quantile(found[sets == benign], 1 - share, method="higher"), 1))
    both = [s for s in dict.fromkeys(sets.tolist()) if 0 < unsafe[sets == s].mean() < 1]
    return {"threshold": limit} | {s: metrics(unsafe[sets == s], found[sets == s], limit) for s in both}


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of what is shown."""
    told: dict[str, Any] = {"thresholds": [round(run["threshold"], 3) for run in runs]}
    for name in [key for key in runs[0] if key != "threshold"]:
        values = {metric: [run[name][metric] for run in runs] for metric in SHOWN}
        told[name] = {m: {"mean": round(mean(v), 4), "sd": round(stdev(v), 4)} for m, v in values.items()}
    return told


def main() -> None:
    """Judges, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="what `libra train ablate` wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--benign", default="alpaca-zh", help="set of ordinary talk")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    study = Study.read(options.study)
    recipes = {key: recipe for key, recipe in study.recipes(options.study).items() if isinstance(recipe, Recipe)}
    rows = tested(list(recipes.values()), options.data)
    found = {(n, s): scores(options.runs / n / f"seed-{s}" / "guard", rows) for n, s in recipes}
    results = {
        f"{share:.0%}": {
            name: over_seeds([at_share(found[name, seed], rows, options.benign, share) for seed in study.seeds])
            for name in study.variants
        }
        for share in SHARES
    }
    told = {"command": shlex.join(["python", *sys.argv]), "benign": options.benign, "results": results}
    write_atomic(options.out, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
    for share, variants in results.items():
        for name, sets in variants.items():
            cells = [
                f"{s}: " + " / ".join(f"{v[m]['mean']:.3f}" for m in SHOWN)
                for s, v in sets.items()
                if s != "thresholds"
            ]
            print(f"{share} of {options.benign} flagged, {name}: " + "; ".join(cells))


if __name__ == "__main__":
    main()
