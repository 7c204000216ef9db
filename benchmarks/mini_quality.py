"""The bundled guard against its baselines, on questions that none of them was trained on, and on libra-mini.

    python benchmarks/mini_quality.py --data DATA --ngram runs/ngram/guard

Baselines: TF-IDF character 1-3-grams with logistic regression on Mini's own training data, the same without Libra-Seed,
the hashed n-gram guard, and a sensitive-word filter over the answer. Each decides at its own threshold, chosen on the
same calibration rows. Writes results/mini.json and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score

from libra_guard import Conversation, Label, load_guard
from libra_guard.guards.classifier import ClassifierGuard
from libra_guard.guards.normalise import normalise
from libra_guard.io import file_hash
from libra_guard.taxonomy import SCENARIOS
from libra_guard.train.classifier import metrics
from libra_guard.train.join import choose_threshold
from libra_guard.train.mixture import Example, Reader, Split
from libra_guard.train.recipe import Recipe

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "benchmarks" / "sensitive_words.txt"
SHOWN = ("accuracy", "f1_safe", "f1_unsafe", "auc", "over_refusal")


def as_text(example: Example) -> str:
    """What TF-IDF reads of a pair."""
    text = example.text
    return text if isinstance(text, str) else f"问：{text[0]}\n答：{text[1]}"


class TfIdf:
    """The baseline in the words of its description; its threshold is chosen as the guard's is, on the same rows."""

    def __init__(
        self, examples: list[Example], pairs: list[Example], benign: list[Example], false_positives: float
    ) -> None:
        self.features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=3, sublinear_tf=True)
        matrix = self.features.fit_transform([as_text(e) for e in examples])
        self.model = LogisticRegression(C=4, solver="liblinear", max_iter=300, random_state=0)
        self.model.fit(matrix, [e.unsafe for e in examples])
        found = self._probabilities(pairs), pairs, self._probabilities(benign)
        self.threshold = choose_threshold(*found, false_positives=false_positives, report=print)

    def scores(self, examples: list[Example]) -> tuple[np.ndarray, float]:
        """Unsafe probabilities and the threshold."""
        return self._probabilities(examples), self.threshold

    def _probabilities(self, examples: list[Example]) -> np.ndarray:
        return self.model.predict_proba(self.features.transform([as_text(e) for e in examples]))[:, 1]


class Words:
    """Flags an answer that holds one of the words."""

    def __init__(self) -> None:
        lines = WORDS.read_text(encoding="utf-8").splitlines()
        self.words = [line for line in lines if line and not line.startswith("#")]

    def scores(self, examples: list[Example]) -> tuple[np.ndarray, float]:
        """1 or 0, and the threshold."""
        answers = [e.text if isinstance(e.text, str) else e.text[1] for e in examples]
        return np.array([float(any(w in a for w in self.words)) for a in answers]), 0.5


class AsGuard:
    """A classifier guard, read as it is used: windows, its own threshold."""

    def __init__(self, spec: str) -> None:
        self.guard = load_guard(spec)

    def scores(self, examples: list[Example]) -> tuple[np.ndarray, float]:
        """Unsafe probabilities and the threshold."""
        texts = [(e.text, None) if isinstance(e.text, str) else e.text for e in examples]
        conversations = [Conversation.from_pair(q, r) for q, r in texts]
        verdicts = self.guard.judge(conversations)
        return np.array([v.unsafe_score for v in verdicts]), self.guard.threshold_for(conversations[0].target)


def scenarios(guard: ClassifierGuard, examples: list[Example]) -> dict:
    """How well the guard names the scenarios of unsafe answers: of all of them, and of those that it flags."""
    unsafe = [e for e in examples if e.unsafe and any(t == 1 for t in e.targets[1:])]
    verdicts = guard.judge([Conversation.from_pair(*e.text) for e in unsafe])
    flagged = np.array([v.label is Label.UNSAFE for v in verdicts])
    given = np.array([[v.categories[name] for name in guard.outputs] for v in verdicts])
    named, wanted = given >= guard.scenario_threshold, np.array([e.targets[1:] for e in unsafe]) == 1

    def shares(rows: np.ndarray) -> dict:
        right = (named & wanted)[rows]
        return {
            "n": len(right),
            "names_the_right_one": round(float(right.any(1).mean()), 4),
            "names_none": round(float((~named[rows].any(1)).mean()), 4),
            "names_in_all": round(float(named[rows].sum(1).mean()), 4),
            "right_one_is_first": round(float((given[rows].argmax(1) == wanted[rows].argmax(1)).mean()), 4),
        }

    each = {
        name: {
            "n": int(wanted[:, i].sum()),
            "precision": round(float(precision_score(wanted[:, i], named[:, i], zero_division=0)), 4),
            "recall": round(float(recall_score(wanted[:, i], named[:, i])), 4),
        }
        for i, name in enumerate(guard.outputs)
    }
    told = {"threshold": guard.scenario_threshold, "of_unsafe": shares(flagged | True), "of_flagged": shares(flagged)}
    return {**told, "by_scenario": each}


def rates(examples: list[Example], scores: np.ndarray, threshold: float) -> dict:
    """Metrics of one set."""
    unsafe = np.array([e.unsafe for e in examples])
    return {k: v for k, v in metrics(unsafe, scores, threshold).items() if k in (*SHOWN, "n", "n_unsafe")}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs" / "train" / "mini.yaml")
    parser.add_argument("--mini", default="mini")
    parser.add_argument("--ngram", required=True, help="folder of the n-gram guard")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mini.json")
    options = parser.parse_args()
    recipe = Recipe.read(options.recipe)
    reader = Reader(options.data, seed=recipe.draws)
    for stage in recipe.stages:
        reader.read(stage.data, Split.TRAIN)
    train = reader.read(recipe.ngrams.data, Split.TRAIN)
    pairs = reader.read(recipe.calibration.data, Split.CALIBRATE)
    benign = reader.read(recipe.calibration.benign, Split.CALIBRATE)
    # Their questions count as seen.
    reader.read(recipe.calibration.questions, Split.CALIBRATE)

    def tf_idf(examples: list[Example]) -> TfIdf:
        return TfIdf(examples, pairs, benign, recipe.calibration.false_positives)

    sets: dict[str, list[Example]] = {}
    for source in recipe.test:
        name = source.called + (" (question)" if source.reads == "question" else "")
        sets.setdefault(name, []).extend(reader.read([source], Split.TEST))
    samples = json.loads((ROOT / "examples" / "libra-mini.json").read_text(encoding="utf-8"))
    sets["libra-mini"] = [
        Example(
            (normalise(s["question"]), normalise(s["response"])),
            (1.0, *(float(s["category_name"] == one.name) for one in SCENARIOS))
            if s["label"] == "不安全"
            else (0.0,) * 8,
            "libra-mini",
            s["question"],
        )
        for s in samples
    ]
    mini = AsGuard(options.mini)
    systems = {
        "Libra-Guard-Mini": mini,
        "hashed n-grams (`ngram`)": AsGuard(f"ngram:{options.ngram}"),
        "TF-IDF + logistic regression": tf_idf(train),
        "the same without Libra-Seed": tf_idf([e for e in train if e.source != "libra-seed"]),
        "sensitive-word filter": Words(),
    }
    results = {name: {s: rates(x, *system.scores(x)) for s, x in sets.items()} for name, system in systems.items()}
    record = {
        "command": "python benchmarks/mini_quality.py --data DATA --ngram NGRAM",
        "results": results,
        "scenarios": {name: scenarios(mini.guard, sets[name]) for name in ("libra-mini", "libra-seed")},
        "mini": mini.guard.provenance(),
        "ngram": systems["hashed n-grams (`ngram`)"].guard.provenance(),
        "data": {s.path: file_hash(options.data / s.path) for s in recipe.test}
        | {"examples/libra-mini.json": file_hash(ROOT / "examples" / "libra-mini.json")},
        "versions": {n: version(n) for n in ("libra-guard", "scikit-learn", "onnxruntime", "numpy")},
    }
    options.out.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(table(results))


def table(results: dict) -> str:
    """F1-unsafe and AUC where both classes are there, the share of flagged rows where all are safe."""
    names = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for system, found in results.items():
        cells = [
            f"{m['accuracy']:.3f} / {m['f1_unsafe']:.3f} / {m['auc']:.3f}"
            if m["n_unsafe"]
            else f"{m['over_refusal']:.1%}"
            for m in found.values()
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
