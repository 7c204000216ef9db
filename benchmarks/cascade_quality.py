"""A cascade of a fast and a strong guard beside each of them, on questions that neither was trained on.

    python benchmarks/cascade_quality.py --recipe configs/train/mini.yaml \
        --recipe configs/train/gemma-3-270m-classifier.yaml --data DATA --fast mini \
        --strong mini:runs/gemma-classifier/guard --work runs/cascade --out results/cascade.json

The pairs are those that the first recipe is tested with, less the questions that a recipe trains or calibrates
on. Both guards judge them as `libra infer` does, limits are fitted as `libra cascade` does, for a quarter of the calls
and half a point of accuracy, and the cascade's file judges them in turn. What is cross-validated was judged by limits
that were chosen on other questions; libra-mini, by the limits as they stand. Kept in --work, where a run goes on, are
the pairs, all verdicts and the cascade's file. Writes the figures and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from tables import markdown

from libra_guard import load_guard
from libra_guard.evaluate.cascade import CascadeGoal, fit, read_runs
from libra_guard.evaluate.cascade_file import cascade_file
from libra_guard.evaluate.metrics import decide
from libra_guard.evaluate.predictions import Matched
from libra_guard.evaluate.report import join_run
from libra_guard.evaluate.rules import Rules
from libra_guard.evaluate.runs import read_run
from libra_guard.io import file_hash, write_atomic
from libra_guard.predict.record import Asked
from libra_guard.predict.runner import Settings, run
from libra_guard.records import Sample
from libra_guard.train.classifier import rounded
from libra_guard.train.mixture import Reader, Split
from libra_guard.train.recipe import Recipe

ROOT = Path(__file__).parents[1]
GOAL = CascadeGoal(calls=0.25, lose=0.005)
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
FIELDS = ("category_name", "sub_category_name", "question", "response")


def dev_pairs(recipes: list[Recipe], data: Path) -> list[tuple[Sample, str]]:
    """What the first recipe is tested with and none was fitted on, with the sets' names; each pair once."""
    fitted_on: set[str] = set()
    for recipe in recipes:
        reader = Reader(data, seed=recipe.draws)
        taught = [source for stage in recipe.stages for source in stage.data]
        told = recipe.calibration
        for sources, split in (
            (taught + (recipe.ngrams.data if recipe.ngrams else []), Split.TRAIN),
            (told.data + told.benign + told.questions, Split.CALIBRATE),
        ):
            fitted_on |= {sample.question for sample, _ in reader.pairs(sources, split)}
    reader = Reader(data, seed=recipes[0].draws)
    found = reader.pairs([source for source in recipes[0].test if source.reads == "pair"], Split.TEST)
    once = {(s.question, s.response): (s, source.called) for s, source in found if s.question not in fitted_on}
    return list(once.values())


def as_rows(pairs: list[tuple[Sample, str]]) -> str:
    """The pairs in the Libra-Test format."""
    rows = [
        {
            "id": str(number),
            "source": name,
            **{field: getattr(sample, field) for field in FIELDS},
            "label": sample.label.value,
            "analyze": "",
        }
        for number, (sample, name) in enumerate(pairs)
    ]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def judged(spec: str, rows: Path, out: Path) -> dict[str, Any]:
    """Judges a file as `libra infer` does; tells which guard it was, and how fast where it was done in one go."""
    guard, started = load_guard(spec), time.perf_counter()
    outcome = run(guard, Settings(data=str(rows), out=out), asked=Asked(spec))
    seconds = time.perf_counter() - started
    whole = outcome.judged and not outcome.resumed
    return {"guard": guard.provenance(), "pairs_per_second": round(outcome.judged / seconds, 2) if whole else None}


def by_set(rows: list[Matched]) -> dict[str, Any]:
    """Metrics of one guard, of all rows and set by set."""
    found, sets = decide(rows, Rules()), np.array([row.truth.source for row in rows])
    return {"all": rounded(found)} | {name: rounded(found.where(sets == name)) for name in dict.fromkeys(sets.tolist())}


def main() -> None:
    """Judges, fits, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, action="append", required=True, help="of each guard; repeatable")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fast", default="mini", help="NAME[:MODEL]")
    parser.add_argument("--strong", required=True, help="NAME[:MODEL]")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipes, work = [Recipe.read(path) for path in options.recipe], options.work
    work.mkdir(parents=True, exist_ok=True)
    dev, held, made = work / "dev.json", ROOT / "examples" / "libra-mini.json", work / "cascade.yaml"
    write_atomic(dev, as_rows(dev_pairs(recipes, options.data)))
    asked = {"fast": options.fast, "strong": options.strong}
    told = {name: judged(spec, dev, work / name) for name, spec in asked.items()}
    runs = read_runs(work / "fast", work / "strong", dev)
    found = fit(runs.rows, runs.partners, GOAL)
    command = shlex.join(["python", *sys.argv])
    text, by_hand = cascade_file(runs, found, GOAL, out=made, command=command)
    write_atomic(made, text)
    told["cascade"] = judged(f"cascade:{made}", dev, work / "cascade")
    for name, spec in {**asked, "cascade": f"cascade:{made}"}.items():
        judged(spec, held, work / f"{name}-libra-mini")
    share = {s: fit(runs.rows, runs.partners, CascadeGoal(calls=s)).cross_validated for s in SHARES}
    figures = {
        name: by_set(join_run(read_run(work / name), dev, None).rows)
        | {"libra-mini": rounded(decide(join_run(read_run(work / f"{name}-libra-mini"), held, None).rows, Rules()))}
        for name in told
    }
    result = {
        "command": command,
        "goal": {"calls": GOAL.calls, "lose": GOAL.lose},
        "fit": found.model_dump(mode="json"),
        "cross_validated_by_share_of_calls": {str(s): one.model_dump(mode="json") for s, one in share.items()},
        "by_set": figures,
        "guards": told,
        "pairs": {"dev": file_hash(dev), "libra-mini": file_hash(held)},
        "data": {source.path: file_hash(options.data / source.path) for source in recipes[0].test},
        "left_out": [*runs.complaints, *by_hand],
        "machine": machine(),
        "versions": {n: version(n) for n in ("libra-guard", "onnxruntime", "numpy")},
    }
    write_atomic(options.out, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    print(markdown(figures, ("accuracy", "f1_unsafe")))
    for name in ("fast", "strong", "in_sample", "cross_validated"):
        one = getattr(found, name)
        print(f"{name}: accuracy {one.accuracy:.4f}, strong guard asked {one.calls:.1%}")


if __name__ == "__main__":
    main()
