"""The whole of an evaluation: scores for each source and scenario, what was odd, and where it all comes from."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, Field

import libra_guard
from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.metrics import SCORES, Metrics, Outcomes, decide, measure
from libra_guard.evaluate.predictions import Joined, Labelled, Matched, join, load_labels, load_predictions
from libra_guard.evaluate.rules import Rules
from libra_guard.evaluate.significance import Comparison, compare, intervals
from libra_guard.io import file_hash

_FAULTS = {
    "missing_predictions": "{} labels without a prediction",
    "missing_labels": "{} predictions without a label",
    "duplicate_predictions": "{} predictions of a row that already had one: the first counts",
    "duplicate_labels": "{} labels of a row that already had one: the first counts",
    "bad_labels": "{} rows with a label outside 安全/不安全",
    "bad_label_rows": "{} rows of the labels cannot be used",
    "bad_prediction_rows": "{} rows of the predictions cannot be used",
    "bad_scores": "{} unsafe scores outside [0, 1]: left out",
    "different_texts": "{} predictions whose question or answer is not the label's: is this the same data?",
}


class Average(Metrics):
    """Unweighted mean of each metric over the sources; the counts are sums."""

    undefined_in: dict[str, int] = Field(default_factory=dict)
    """Metric → number of sources in which it is undefined; its mean is over the others."""


class Counts(BaseModel):
    """What became of the rows."""

    matched: int
    """Rows with both label and prediction: those that were scored."""
    missing_predictions: int = 0
    missing_labels: int = 0
    duplicate_predictions: int = 0
    duplicate_labels: int = 0
    bad_labels: int = 0
    bad_label_rows: int = 0
    bad_prediction_rows: int = 0
    bad_scores: int = 0
    different_texts: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing was odd."""
        return not self.odd()

    def odd(self) -> dict[str, str]:
        """What was odd, in words, by the name of its count."""
        return {kind: words.format(number) for kind, words in _FAULTS.items() if (number := getattr(self, kind))}


class Report(BaseModel):
    """The result of ``evaluate``."""

    sources: dict[str, Metrics]
    average: Average
    scenarios: dict[str, Metrics]
    overall: Metrics
    """All rows in one group."""
    unreadable: int
    """Answers that could not be read, in all."""
    counts: Counts
    named: dict[str, list[str]]
    """Kind of fault, as in ``counts`` → the first few, by id or place."""
    comparison: Comparison | None = None
    other_counts: Counts | None = None
    """What became of the second run's rows, where two are compared."""
    provenance: dict[str, Any]

    @property
    def complaints(self) -> list[str]:
        """What was odd, in words, one line a kind."""
        lines = [f"{words} ({_few(self.named[kind], self.counts, kind)})" for kind, words in self.counts.odd().items()]
        if self.other_counts is not None:
            lines += [f"the other run: {words}" for words in self.other_counts.odd().values()]
        lines += [f"source {name}: no predictions" for name, found in self.sources.items() if not found.n]
        return lines

    @property
    def gaps(self) -> list[str]:
        """Which averages leave a source out, in words."""
        total = len(self.sources)
        found = self.average.undefined_in.items()
        return [f"average of {name}: over {total - number} of {total} sources" for name, number in found]


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    *,
    rules: Rules | None = None,
    other: str | Path | None = None,
    resamples: int = 0,
    seed: int = 42,
) -> Report:
    """Scores predictions against a benchmark.

    Args:
        predictions: A folder that ``libra infer`` or the published script wrote, or one file.
        labels: A file in the Libra-Test format, or anything that ``read_rows`` reads.
        rules: How predictions become decisions; by default the guard's labels, unreadable ones flagged.
        other: Predictions of a second run, to test the difference.
        resamples: Bootstrap samples for intervals and the paired test; 0 leaves them out.
        seed: Of the bootstrap.

    Raises:
        UsageError: A file is missing, or an option makes no sense here.
        DataError: Nothing can be scored.
    """
    rules = rules or Rules()
    truths, label_tally = load_labels(labels)
    joined = _joined(Path(predictions), truths)
    outcomes = decide(joined.rows, rules)
    if rules.threshold is not None and not measure(outcomes).n_with_score:
        raise UsageError(f"{predictions}: no prediction has an unsafe score, so a threshold decides nothing")
    comparison, second = None, None
    if other is not None:
        second = _joined(Path(other), truths)
        comparison = _compared(joined.rows, second.rows, rules, resamples, seed)
    sources = _groups(joined.labels, outcomes, lambda row: row.source, outcomes.source)
    scenarios = _groups(joined.labels, outcomes, lambda row: row.scenario, outcomes.scenario)
    tally = label_tally + joined.tally
    overall = _measured(outcomes, resamples, seed)
    return Report(
        sources={name: _measured(rows, resamples, seed) for name, rows in sources.items()},
        average=_average(list(sources.values()), resamples, seed),
        scenarios={name: _measured(rows, resamples, seed) for name, rows in scenarios.items()},
        overall=overall,
        unreadable=overall.unreadable,
        counts=Counts(matched=len(joined.rows), **tally.counts),
        other_counts=None if second is None else Counts(matched=len(second.rows), **second.tally.counts),
        named=tally.named,
        comparison=comparison,
        provenance=_provenance(Path(predictions), labels, rules, resamples, seed)
        | ({} if other is None else {"other": str(other), "other_runs": _runs(Path(other))}),
    )


def _joined(predictions: Path, truths: Sequence[Labelled]) -> Joined:
    found, tally = load_predictions(predictions)
    joined = join(truths, found)
    if not joined.rows:
        raise DataError(f"{predictions}: none of {len(found)} predictions belongs to one of {len(truths)} labels")
    return Joined(joined.rows, joined.labels, tally + joined.tally)


def _compared(first: list[Matched], second: list[Matched], rules: Rules, resamples: int, seed: int) -> Comparison:
    partners = {row.truth.key: row for row in second}
    common = [row for row in first if row.truth.key in partners]
    ours, theirs = decide(common, rules), decide([partners[row.truth.key] for row in common], rules)
    if not (ours.scored & theirs.scored).any():
        raise DataError("the two runs have no row in common that can be scored, so they cannot be compared")
    return compare(ours, theirs, resamples=resamples, seed=seed)


def _groups(labels: list[Labelled], outcomes: Outcomes, name: Callable[[Labelled], str], column: Any) -> dict[str, Any]:
    """Outcomes of each group, in the labels' order; empty where a group has labels but no predictions."""
    return {group: outcomes.where(column == group) for group in dict.fromkeys(name(row) for row in labels)}


def _measured(rows: Outcomes, resamples: int, seed: int) -> Metrics:
    return measure(rows).model_copy(update={"intervals": intervals([rows.cells], resamples=resamples, seed=seed)})


def _average(sources: list[Outcomes], resamples: int, seed: int) -> Average:
    found = [measure(rows) for rows in sources]
    values = {name: [v for m in found if (v := getattr(m, name)) is not None] for name in SCORES}
    sums = {name: sum(getattr(m, name) for m in found) for name in ("n", "n_unsafe", "n_with_score", "unreadable")}
    gaps = {name: len(found) - len(of) for name, of in values.items() if 0 < len(of) < len(found)}
    bounds = intervals([rows.cells for rows in sources], resamples=resamples, seed=seed)
    means = {name: fmean(of) if of else None for name, of in values.items()}
    kept = {name: pair for name, pair in bounds.items() if name not in gaps}
    return Average.model_validate({**sums, **means, "undefined_in": gaps, "intervals": kept})


def _provenance(predictions: Path, labels: str | Path, rules: Rules, resamples: int, seed: int) -> dict[str, Any]:
    packages = ("numpy", "scikit-learn", "scipy")
    return {
        "predictions": str(predictions),
        "labels": str(labels),
        "labels_sha256": file_hash(labels),
        "rules": rules.as_dict(),
        "bootstrap": {"resamples": resamples, "seed": seed},
        "runs": _runs(predictions),
        "versions": {
            "libra-guard": libra_guard.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _runs(predictions: Path) -> dict[str, Any]:
    """The provenance that the predictions came with: file name → content."""
    found = {}
    # Of a sharded run, run.json tells it all once the first shard has ended.
    whole = [f for f in (predictions / "run.json",) if f.is_file()]
    for file in whole or (sorted(predictions.glob("run*.json")) if predictions.is_dir() else []):
        try:
            # A NaN is no JSON, and would spoil the report's.
            found[file.name] = json.loads(file.read_bytes(), parse_constant=lambda _: None)
        except (OSError, ValueError, RecursionError) as error:
            found[file.name] = {"unreadable": str(error)}
    return found


def _few(examples: list[str], counts: Counts, kind: str) -> str:
    return "; ".join(examples) + ("; …" if getattr(counts, kind) > len(examples) else "")
