"""The whole of an evaluation: scores for each source and scenario, what was odd, and where it all comes from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

import libra_guard
from libra_guard.errors import DataError, UsageError
from libra_guard.evaluate.folder import find_files
from libra_guard.evaluate.metrics import SCORES, Metrics, Outcomes, decide, measure
from libra_guard.evaluate.predictions import (
    NAMED,
    Joined,
    Labelled,
    Matched,
    Tally,
    join,
    load_labels,
    load_predictions,
    printable,
)
from libra_guard.evaluate.rules import Rules, Unreadable
from libra_guard.evaluate.runs import Run, check_targets, read_run
from libra_guard.evaluate.significance import Comparison, check_resamples, compare, intervals
from libra_guard.hub import pinned
from libra_guard.io import file_hash, passed_over, unread
from libra_guard.records import Label

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
_NO_PREDICTIONS = "files that hold no predictions"


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


@dataclass(frozen=True)
class JoinedRun(Joined):
    """What can be scored of a run; ``tally`` is of the predictions and of the join."""

    label_tally: Tally
    """Of the labels, whichever run they are joined with."""

    @property
    def counts(self) -> Counts:
        """What became of the rows of both files."""
        return Counts(matched=len(self.rows), **(self.label_tally + self.tally).counts)


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
    mixed: list[str] = Field(default_factory=list)
    """What keeps the shards of a folder from being one run, in words."""
    passed_over: list[str] = Field(default_factory=list)
    """Files beside the predictions, of both runs, that hold none and that no run leaves there."""
    provenance: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether nothing was odd, in either run."""
        counts = [self.counts] if self.other_counts is None else [self.counts, self.other_counts]
        return not self.mixed and all(found.complete for found in counts)

    @property
    def complaints(self) -> list[str]:
        """What was odd, in words, one line a kind."""
        lines = list(self.mixed)
        lines += [f"{words} ({_few(self.named[kind], self.counts, kind)})" for kind, words in self.counts.odd().items()]
        if self.other_counts is not None:
            lines += [f"the other run: {words}" for words in self.other_counts.odd().values()]
        lines += [f"source {name}: no predictions" for name, found in self.sources.items() if not found.n]
        return lines

    @property
    def beside(self) -> list[str]:
        """Which files were not read, in a line; none where all were."""
        return passed_over(self.passed_over, _NO_PREDICTIONS)

    @property
    def gaps(self) -> list[str]:
        """Which averages leave a source out, in words; those that are compared too, and why they are not tested."""
        total = len(self.sources)
        found = self.average.undefined_in.items()
        lines = [f"average of {name}: over {total - number} of {total} sources" for name, number in found]
        if self.comparison is not None:
            known, there = self.comparison.f1_unsafe_over
            if known < there:
                lines.append(f"comparison of f1_unsafe: over {known} of {there} sources: undefined in the others")
            if known and self.comparison.f1_unsafe_interval is None and self.provenance["bootstrap"]["resamples"]:
                lines.append("comparison of f1_unsafe: not tested, for a source has one row alone in common")
        return lines

    @property
    def one_class(self) -> list[str]:
        """Which sources and scenarios have rows of one label alone, and what they can have no figure of."""
        return [*_one_class("source", self.sources), *_one_class("scenario", self.scenarios)]


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    *,
    rules: Rules | None = None,
    other: str | Path | None = None,
    label_field: str | None = None,
    resamples: int = 0,
    seed: int = 42,
) -> Report:
    """Scores predictions against a benchmark.

    Args:
        predictions: A folder that ``libra infer`` or the published script wrote, or one file.
        labels: A file in the Libra-Test format, or anything that ``read_rows`` reads.
        rules: How predictions become decisions; by default the guard's labels, unreadable ones flagged.
        other: Predictions of a second run, to test the difference.
        label_field: Where the labels' rows keep the label; by default ``label``, which is that of the answers.
        resamples: Bootstrap samples for intervals and the paired test, at least 100; 0 leaves them out.
        seed: Of the bootstrap.

    Raises:
        UsageError: A file is missing, or an option makes no sense here; or the questions were judged, and no field
            was named that has their labels.
        DataError: Nothing can be scored.
    """
    rules = rules or Rules()
    check_resamples("--bootstrap", resamples)
    first, second = read_run(Path(predictions)), None if other is None else read_run(Path(other))
    check_targets(first, second, label_field)
    labelled = _Labels(pinned(labels), label_field or "label")
    joined = _joined(first, labelled, rules)
    outcomes = decide(joined.rows, rules)
    if rules.threshold is not None and not measure(outcomes).n_with_score:
        raise UsageError(f"{predictions}: no prediction has an unsafe score, so a threshold decides nothing")
    runs = [first] if second is None else [first, second]
    comparison, theirs = None, None
    if second is not None:
        theirs = _joined(second, labelled, rules)
        comparison = _compared(joined.rows, theirs.rows, rules, resamples, seed)
    sources = _groups(joined.labels, outcomes, lambda row: row.source, outcomes.source)
    scenarios = _groups(joined.labels, outcomes, lambda row: row.scenario, outcomes.scenario)
    overall = _measured(outcomes, resamples, seed)
    return Report(
        sources={name: _measured(rows, resamples, seed) for name, rows in sources.items()},
        average=_average(list(sources.values()), resamples, seed),
        scenarios={name: _measured(rows, resamples, seed) for name, rows in scenarios.items()},
        overall=overall,
        unreadable=overall.unreadable,
        counts=joined.counts,
        other_counts=None if theirs is None else Counts(matched=len(theirs.rows), **theirs.tally.counts),
        named=(joined.label_tally + joined.tally).named,
        comparison=comparison,
        mixed=[*first.mixed, *(f"the other run: {words}" for words in (second.mixed if second else ()))],
        passed_over=_unexpected(run.path for run in runs),
        provenance=_provenance(first, labelled, rules, resamples, seed)
        | ({} if second is None else {"other": str(other), "other_runs": second.records}),
    )


def beside(predictions: Iterable[Path], labels: Iterable[str | Path] = ()) -> list[str]:
    """Which files beside predictions, and in folders of labels, were not read, in words; none where all were.

    Raises:
        UsageError: There is no such file or folder, or no data in it.
    """
    lines = passed_over(_unexpected(predictions), _NO_PREDICTIONS)
    return [*lines, *(line for path in labels for line in unread(path))]


def _unexpected(predictions: Iterable[Path]) -> list[str]:
    return [printable(file) for path in predictions for file in find_files(path).unexpected]


def join_run(run: Run, labels: str | Path, label_field: str | None = None, *, published: bool = False) -> JoinedRun:
    """Reads a run's predictions and their labels, and joins them.

    Args:
        run: Whose predictions.
        labels: A file in the Libra-Test format, or anything that ``read_rows`` reads.
        label_field: Where its rows keep the label; by default ``label``.
        published: See ``load_predictions``.

    Raises:
        UsageError: A file is missing.
        DataError: No prediction belongs to a label.
    """
    truths, label_tally = load_labels(labels, run.fields, label_field or "label")
    found, tally = load_predictions(run.path, run.fields, published=published)
    joined = join(truths, found)
    if not joined.rows:
        raise DataError(f"{run.path}: none of {len(found)} predictions belongs to one of {len(truths)} labels")
    return JoinedRun(joined.rows, joined.labels, tally + joined.tally, label_tally)


class _Labels(NamedTuple):
    path: str | Path
    field: str


def _joined(run: Run, labels: _Labels, rules: Rules) -> JoinedRun:
    return join_run(run, labels.path, labels.field, published=rules.unreadable is Unreadable.WRONG)


def _compared(first: list[Matched], second: list[Matched], rules: Rules, resamples: int, seed: int) -> Comparison:
    # By number: rows without an id may be alike.
    partners = {row.truth.number: row for row in second}
    common = [row for row in first if row.truth.number in partners]
    ours, theirs = decide(common, rules), decide([partners[row.truth.number] for row in common], rules)
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


def _provenance(run: Run, labels: _Labels, rules: Rules, resamples: int, seed: int) -> dict[str, Any]:
    # What the published rule reads depends on how json-repair repairs.
    packages = ("json-repair", "numpy", "scikit-learn", "scipy")
    return {
        "predictions": str(run.path),
        "labels": str(labels.path),
        "labels_sha256": file_hash(labels.path),
        "label_field": labels.field,
        "rules": rules.as_dict(),
        "bootstrap": {"resamples": resamples, "seed": seed},
        "runs": run.records,
        "versions": {
            "libra-guard": libra_guard.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _one_class(kind: str, groups: dict[str, Metrics]) -> list[str]:
    lines = []
    for name, found in groups.items():
        if found.n and found.n_unsafe in (0, found.n):
            there, other, f1 = (Label.UNSAFE, Label.SAFE, found.f1_safe)
            if not found.n_unsafe:
                there, other, f1 = (Label.SAFE, Label.UNSAFE, found.f1_unsafe)
            # Where the guard said the other label, its F1 is 0, however well it judged.
            lacks = f"no F1 of {other}" if f1 is None else f"an F1 of {other} that can only be 0"
            lines.append(f"{kind} {name}: all rows are {there}: no AUC, {lacks}")
    more = len(lines) - NAMED
    return lines if more <= 1 else [*lines[:NAMED], f"{more} more {kind}s have rows of one label alone"]


def _few(examples: list[str], counts: Counts, kind: str) -> str:
    return "; ".join(examples) + ("; …" if getattr(counts, kind) > len(examples) else "")
