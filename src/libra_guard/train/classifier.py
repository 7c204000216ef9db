"""Trains a classifier guard from a recipe: stages of the encoder, the n-grams, their join, the guard's files, the card.

libra train classifier configs/train/mini.yaml --data DIR --out runs/mini
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Text
from libra_guard.errors import UsageError
from libra_guard.evaluate.metrics import Outcomes, measure
from libra_guard.evaluate.significance import intervals
from libra_guard.guards.classifier import probabilities
from libra_guard.io import write_atomic
from libra_guard.train.card import write_cards
from libra_guard.train.disk import full_disk
from libra_guard.train.join import (
    FEWEST,
    Joint,
    choose_category_threshold,
    choose_threshold,
    enough_to_fit,
    fit_joint,
)
from libra_guard.train.mixture import Example, Reader, Split
from libra_guard.train.outputs import Outputs
from libra_guard.train.placing import clear, names_of, put_in_place, written
from libra_guard.train.provenance import hub_name, named_base, provenance_of
from libra_guard.train.recipe import Recipe, Stage
from libra_guard.train.wide import fit_wide

Report = Callable[[str], None]
_RESAMPLES = 1000
# How near an exported file should be to the parts it was made of: labels that are the same, the unsafe score's median
# difference.
_SAME_LABELS, _SCORES_APART = 0.995, 0.02


def train_classifier(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    shared_stages: Path | None = None,
    command: str | None = None,
    report: Report,
) -> dict[str, Any]:
    """Trains, joins, exports and measures a guard.

    A stage whose result stands in ``out`` and was made by the same recipe is not trained again. Where the guard comes
    out the same, what was put beside it stays; else that goes to a folder of its own, which is told.

    Args:
        recipe: What to do.
        data: Folder that the sources' paths are relative to.
        out: Folder for the guard (``guard/``), its form for the model hub (``hub/``) and the stages' weights.
        base: Overrides the recipe's base, e.g. with a local folder.
        shared_stages: Keeps the stages' weights here instead, where other runs that begin alike take them up.
        command: What was typed, for the record.
        report: Called with lines for people.

    Returns:
        What ``train.json`` holds: metrics by source for each part and the whole, parity, threshold, provenance.

    Raises:
        UsageError: A set is missing or empty, training or calibration have one label only, no sample has one of the
            categories that were named, or the base cannot be loaded: before anything is trained.
        BackendError: The disk is full; stages that are done are not trained again when it is started anew.
    """
    # Here, and not where it is used: a missing library must show before hours of training, not after.
    from libra_guard.train.export import export_guard, exported_scores, parity, set_thresholds

    out = Path(out)
    outputs = Outputs.of(recipe.outputs)
    reader = Reader(data, seed=recipe.draws, outputs=outputs)
    stages = [(stage, reader.read(stage.data, Split.TRAIN)) for stage in recipe.stages]
    wide_examples = reader.read(recipe.ngrams.data, Split.TRAIN) if recipe.ngrams else []
    calibration = reader.read(recipe.calibration.data, Split.CALIBRATE)
    benign = reader.read(recipe.calibration.benign, Split.CALIBRATE)
    questions = reader.read(recipe.calibration.questions, Split.CALIBRATE)
    test = reader.read(recipe.test, Split.TEST)
    for line in reader.left_out:
        report(line)
    taught = [e for _, examples in stages for e in examples]
    untaught = _tell_untaught(outputs, taught + wide_examples, report)
    _need_both_labels("the stages", taught)
    _need_both_labels("ngrams", wide_examples)
    _need_both_labels("calibration", calibration + benign)
    base = (base or recipe.base) if recipe.encoder else None
    provenance = provenance_of(recipe, data, base, command)

    trainer = _load_encoder(recipe, stages, outputs, base, report) if recipe.encoder else None
    wide = fit_wide(recipe.ngrams, wide_examples, seed=recipe.seed) if recipe.ngrams else None
    if trainer:
        _train_stages(trainer, recipe, provenance, stages, out, shared_stages, report)

    def parts(texts: list[Text]) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        return (trainer.logits(texts) if trainer else None), (wide.logits(texts) if wide else None)

    fitted_on = calibration + benign
    halves = parts([e.text for e in fitted_on])
    joint = fit_joint(*halves, fitted_on, seed=recipe.seed)
    named_from = choose_category_threshold(probabilities(_logits(joint, *halves)[:, 1:]), fitted_on)
    calibrated = _tell_uncalibrated(outputs, fitted_on, untaught, report)

    def scores(examples: list[Example]) -> NDArray[np.float64]:
        # Of the file that is used, not of the parts it was made of.
        texts = [e.text for e in examples]
        return exported_scores(made, texts, lambda long: _scores(joint, *parts(long))) if texts else np.zeros(0)

    guard, made = out / "guard", out / ".guard"
    report(f"writing {guard}")
    shutil.rmtree(made, ignore_errors=True)
    told = {"labels": list(outputs.labels), "system": outputs.system, "field": outputs.field}
    config: dict[str, Any] = {**told, "scenario_threshold": named_from}
    with full_disk(out):
        export_guard(
            made,
            trainer=trainer,
            wide=wide,
            joint=joint,
            config={"name": recipe.name, **config},
            samples=[e.text for e in fitted_on + questions],
        )
    remarks: list[str] = []
    thresholds = _thresholds(recipe, scores, calibration, benign, questions, remarks.append)
    for line in remarks:
        report(line)
    set_thresholds(made, thresholds)
    hub = _write_hub(out / ".hub", trainer, None if wide else joint, config, thresholds) if trainer else None
    files = _put_in_place(out, ("guard", "hub") if hub else ("guard",), report)
    tested = parts([e.text for e in test]) if test else (None, None)
    limits = _limits(test, thresholds)
    compared = parity(guard, [e.text for e in test], _logits(joint, *tested), limits) if test else {}
    _tell_parity(compared, report)
    result: dict[str, Any] = {
        "name": recipe.name,
        **({"base": named_base(base), "base_model": hub_name(base)} if base else {}),
        **thresholds,
        "scenario_threshold": named_from,
        "remarks": remarks,
        "calibrated": calibrated,
        "untaught": untaught,
        "test": _measure(joint, *tested, test, limits) if test else {},
        "parity": compared,
        "examples": {
            "stages": {s.name: _counts(x) for s, x in stages},
            "ngrams": _counts(wide_examples),
            "calibration": _counts(fitted_on),
            "test": _counts(test),
        },
        "hub": hub,
        "files": files,
        "provenance": provenance,
    }
    write_cards(out, recipe, result)
    # Last, for it says that all is there.
    write_atomic(out / "train.json", json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    return result


def _put_in_place(out: Path, made: Collection[str], report: Report) -> dict[str, list[str]]:
    """Puts the folders that were made where an earlier run's stand; returns what is in them."""
    files = {name: names_of(out / f".{name}") for name in made}
    before = {name: written(out, name) for name in ("guard", "hub")}
    # At once: a kill must not leave new weights beside an old threshold, or beside what an earlier run told.
    (out / "train.json").unlink(missing_ok=True)
    for name, own in before.items():
        if name in files:
            put_in_place(out / f".{name}", out / name, own=own, report=report)
        else:
            clear(out / name, own=own, report=report)
    return files


def _write_hub(
    folder: Path, trainer: Any, joint: Joint | None, config: dict[str, Any], thresholds: dict[str, float]
) -> dict[str, str]:
    """A part of a guard has no threshold of its own: it is measured at a half."""
    from libra_guard.train.hub import write_hub

    with full_disk(folder):
        form = write_hub(folder, trainer, joint, {**config, **(thresholds if joint else {"threshold": 0.5})})
    return {"form": form, "pooling": trainer.backbone.pooling}


def _tell_parity(found: dict[str, float], report: Report) -> None:
    """Says where the exported file is further from its parts than it should be."""
    if "label_agreement" not in found:
        return
    same, apart = found["label_agreement"], found["median_score_difference"]
    if same < _SAME_LABELS or apart > _SCORES_APART:
        report(
            f"the exported file is not near enough to its parts: {100 * same:.5g} % of the labels are the same (wanted:"
            f" {100 * _SAME_LABELS:.5g} % or more), the unsafe score differs by {apart:.5g} in the median (wanted:"
            f" {_SCORES_APART:.5g} or less)"
        )


def _tell_untaught(outputs: Outputs, examples: list[Example], report: Report) -> list[str]:
    """Which categories no example has, which is said; of names of one's own, one at least must be there."""
    found = np.array([e.targets for e in examples])
    unseen = [name for name, column in zip(outputs.labels, found.T, strict=True) if not (column == 1).any()]
    if outputs.system is None and len(unseen) >= len(outputs.labels) - 1:
        raise UsageError(f"outputs: no unsafe training example has one of the names in its field '{outputs.field}'")
    if unseen:
        report(f"no training example of: {', '.join(unseen)}")
    return unseen


def _tell_uncalibrated(
    outputs: Outputs, examples: list[Example], untaught: Collection[str], report: Report
) -> list[str]:
    """Which outputs the join was fitted for; of the others it is said, but for those that were not taught either."""
    enough = dict(zip(outputs.labels, enough_to_fit(examples).tolist(), strict=True))
    if short := [name for name, fitted in enough.items() if not fitted and name not in untaught]:
        report(
            f"scores that are not calibrated, for fewer than {FEWEST} calibration examples are known to be of them, or "
            f"not to be: {', '.join(short)}"
        )
    return [name for name, fitted in enough.items() if fitted]


def _thresholds(
    recipe: Recipe,
    scores: Callable[[list[Example]], NDArray[np.float64]],
    pairs: list[Example],
    benign: list[Example],
    questions: list[Example],
    report: Report,
) -> dict[str, float]:
    """Of answers, and of questions judged by themselves: the answers' own where there are none to choose it on."""
    budget = recipe.calibration
    found = scores(questions)
    threshold = choose_threshold(
        scores(pairs), pairs, scores(benign), false_positives=budget.false_positives, report=report
    )
    if not questions:
        return {"threshold": threshold, "question_threshold": threshold}
    harmless = found[[not e.unsafe for e in questions]]
    limit = choose_threshold(
        found,
        questions,
        harmless,
        false_positives=budget.question_false_positives,
        report=report,
        judged="questions",
    )
    return {"threshold": threshold, "question_threshold": limit}


def _need_both_labels(part: str, examples: list[Example]) -> None:
    if examples and len({e.unsafe for e in examples}) < 2:
        raise UsageError(f"{part}: all {len(examples)} examples are {'un' * examples[0].unsafe}safe; both are needed")


def _load_encoder(
    recipe: Recipe, stages: list[tuple[Stage, list[Example]]], outputs: Outputs, base: str | None, report: Report
) -> Any:
    from libra_guard.train.encoder import EncoderTrainer

    assert recipe.encoder is not None
    encoder = recipe.encoder.model_copy(update={"base": base} if base else {})
    # Of the first stage alone, so that a later stage's data can change without training the first again.
    texts = [t for x in stages[0][1] for t in ((x.text,) if isinstance(x.text, str) else x.text)]
    return EncoderTrainer(encoder, texts, labels=outputs.labels, seed=recipe.seed, dtype=recipe.dtype, report=report)


def _train_stages(
    trainer: Any,
    recipe: Recipe,
    provenance: dict[str, Any],
    stages: list[tuple[Stage, list[Example]]],
    out: Path,
    shared: Path | None,
    report: Report,
) -> None:
    key = f"{recipe.encoder}{provenance.get('base')}{recipe.dtype}{recipe.seed}"
    for stage, examples in stages:
        # A stage stands on all before it, so its mark covers them too.
        key = hashlib.sha256(f"{key}{stage}{examples}".encode()).hexdigest()
        folder = shared / f"{stage.name}-{key[:12]}" if shared else out / f"stage-{stage.name}"
        mark = folder / "done"
        if mark.exists() and mark.read_text() == key:
            if (damage := _loaded(trainer, folder)) is None:
                report(f"stage '{stage.name}': taken from {folder}")
                continue
            report(f"stage '{stage.name}': {folder} is damaged and is trained anew: {damage}")
        trainer.fit(stage, examples)
        # An earlier recipe's mark must not stand beside these weights, not even for a moment.
        mark.unlink(missing_ok=True)
        with full_disk(folder):
            trainer.save(folder)
        write_atomic(mark, key)


def _loaded(trainer: Any, folder: Path) -> str | None:
    """Takes up a finished stage; what is wrong where its file cannot be read, for a copy or a disk may have cut it."""
    from safetensors import SafetensorError

    try:
        trainer.load(folder)
    except (OSError, SafetensorError) as error:
        return str(error)
    return None


def _limits(examples: list[Example], thresholds: dict[str, float]) -> NDArray[np.float64]:
    """The threshold that each example is judged at."""
    asked = np.array([isinstance(e.text, str) for e in examples], dtype=bool)
    return np.where(asked, thresholds["question_threshold"], thresholds["threshold"])


def _logits(joint: Joint, deep: NDArray[np.float64] | None, wide: NDArray[np.float64] | None) -> NDArray[np.float64]:
    zero = np.zeros_like(deep if deep is not None else wide)
    return joint.apply(zero if deep is None else deep, zero if wide is None else wide)


def _scores(joint: Joint, deep: NDArray[np.float64] | None, wide: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return probabilities(_logits(joint, deep, wide)[:, 0])


def _measure(
    joint: Joint,
    deep: NDArray[np.float64] | None,
    wide: NDArray[np.float64] | None,
    examples: list[Example],
    limits: NDArray[np.float64],
) -> dict[str, Any]:
    """Metrics by source, of the whole at its thresholds and of each part at its own logit 0."""
    systems = {"guard": (_scores(joint, deep, wide), limits)}
    for name, logits in (("encoder", deep), ("ngrams", wide)):
        if logits is not None and (deep is not None) == (wide is not None):
            systems[name] = (probabilities(logits[:, 0]), np.full(len(examples), 0.5))
    sources = np.array([f"{e.source} ({'question' if isinstance(e.text, str) else 'pair'})" for e in examples])
    unsafe = np.array([e.unsafe for e in examples])
    return {
        system: {
            str(source): metrics(unsafe[sources == source], scores[sources == source], limits[sources == source])
            for source in dict.fromkeys(sources)
        }
        for system, (scores, limits) in systems.items()
    }


def metrics(
    unsafe: NDArray[np.bool_], scores: NDArray[np.float64], limits: NDArray[np.float64] | float
) -> dict[str, Any]:
    """Metrics of scores against labels, to four decimals; all of shape ``(n,)``, the limits also one for all."""
    everywhere, nowhere = np.ones(len(unsafe), dtype=bool), np.full(len(unsafe), "")
    rows = Outcomes(unsafe, scores >= limits, everywhere, everywhere, scores, nowhere, nowhere)
    return rounded(rows)


def rounded(rows: Outcomes) -> dict[str, Any]:
    """Metrics of outcomes and their 95 % bootstrap intervals, to four decimals."""
    found = {k: round(v, 4) if isinstance(v, float) else v for k, v in measure(rows).model_dump().items()}
    bounds = intervals([rows.cells], resamples=_RESAMPLES, seed=42)
    return found | {"intervals": {k: [round(bound, 4) for bound in pair] for k, pair in bounds.items()}}


def _counts(examples: list[Example]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for example in examples:
        row = counts.setdefault(example.source, {"safe": 0, "unsafe": 0})
        row["unsafe" if example.unsafe else "safe"] += 1
    return counts
