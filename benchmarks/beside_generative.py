"""A trained generative guard beside others, on the very pairs that its training run measured it on.

    python benchmarks/beside_generative.py --recipe configs/train/gemma-3-270m-cpu.yaml --run runs/gemma --data DATA \
        --guard mini --guard ngram:runs/ngram/guard --out results/gemma-3-270m.json

The guard's own figures and its untrained self's are those of the run's train.json; the others judge here, each at its
own threshold. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown

from libra_guard import Conversation, load_guard
from libra_guard.evaluate.metrics import Outcomes
from libra_guard.io import write_atomic
from libra_guard.records import Label, Sample
from libra_guard.train.classifier import rounded
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.mixture import Reader, Split

SHOWN = ("accuracy", "f1_unsafe", "auc")


def tested(recipe: GenerativeRecipe, data: Path) -> list[tuple[Sample, str]]:
    """The samples that the run was measured on, with their sets, in its order."""
    reader = Reader(data, seed=recipe.draws)
    for stage in recipe.resolved:
        for source in stage.data:
            reader.samples(source, Split.TRAIN)
    if recipe.calibration:
        for source in (*recipe.calibration.data, *recipe.calibration.benign):
            reader.samples(source, Split.CALIBRATE)
    return [(sample, source.set) for source in recipe.test for sample in reader.samples(source, Split.TEST)]


def measured(spec: str, rows: list[tuple[Sample, str]]) -> dict[str, Any]:
    """Metrics of a guard by set."""
    guard = load_guard(spec)
    verdicts = guard.judge([Conversation.from_pair(sample.question, sample.response) for sample, _ in rows])
    sets, nowhere = np.array([name for _, name in rows]), np.full(len(rows), "")
    found = Outcomes(
        unsafe=np.array([sample.label is Label.UNSAFE for sample, _ in rows]),
        flagged=np.array([verdict.flagged for verdict in verdicts]),
        scored=np.ones(len(rows), dtype=bool),
        readable=np.array([verdict.valid for verdict in verdicts]),
        score=np.array([np.nan if verdict.unsafe_score is None else verdict.unsafe_score for verdict in verdicts]),
        source=nowhere,
        scenario=nowhere,
    )
    return {"guard": guard.provenance(), "test": {n: rounded(found.where(sets == n)) for n in dict.fromkeys(sets)}}


def main() -> None:
    """Judges, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="what `libra train generative` wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--guard", action="append", default=[], help="NAME[:MODEL]; repeatable")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    record = json.loads((options.run / "train.json").read_text(encoding="utf-8"))
    rows = tested(GenerativeRecipe.read(options.recipe), options.data)
    counted = {name: sum(found.values()) for name, found in record["samples"]["test"].items()}
    if counted != {name: sum(s == name for _, s in rows) for name in counted}:
        sys.exit(f"{options.run}: was measured on other samples than {options.recipe} draws from {options.data}")
    others = {spec.partition(":")[0]: measured(spec, rows) for spec in options.guard}
    result = {"command": shlex.join(["python", *sys.argv]), "trained": record, "others": others}
    write_atomic(options.out, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    print(markdown(record["test"] | {name: found["test"] for name, found in others.items()}, SHOWN))


if __name__ == "__main__":
    main()
