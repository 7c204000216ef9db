"""Rounds of training: what the classifier gets wrong, more of its kind, and the classifier that has learnt it.

After DuoGuard (arXiv:2502.05163), where a generator and a classifier improve each other; here the generator is a model
behind an endpoint, which stays as it is and is shown the classifier's errors.

libra train adversarial configs/adversarial/servers.yaml --data DATA --out runs/adversarial
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from libra_guard.data.near_duplicates import duplicates, matches, sign
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.registry import load_guard
from libra_guard.io import write_atomic
from libra_guard.records import Label, Sample, as_json
from libra_guard.synth.adversarial.adversary import Adversary, Written
from libra_guard.synth.adversarial.presence import check_servers
from libra_guard.synth.adversarial.settings import AdversarialConfig
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.trial import UselessModelError
from libra_guard.synth.work import Reject
from libra_guard.train import placing
from libra_guard.train.classifier import metrics, train_classifier
from libra_guard.train.mixture import Reader, Split, check_mixture
from libra_guard.train.provenance import finished
from libra_guard.train.recipe import Recipe, Source, Stage

Report = Callable[[str], None]
PAIRS = "pairs"
"""Name of a round's file and folder of what was written."""
RECORD = "adversarial.json"


def adversarial_rounds(
    path: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    command: str | None = None,
    report: Report,
) -> dict[str, Any]:
    """Trains the recipe's classifier, then round by round on what it gets wrong, until that gains too little.

    A later round that brings no pair is the end too: there is nothing more to learn, or nobody who writes it.

    What is done is not done again: calls are kept in ``calls.sqlite``, trainings as ``train_classifier`` keeps them.

    Args:
        path: The settings' YAML file.
        data: Folder that the recipe's paths are relative to.
        out: Folder for the rounds (``round-0`` is the recipe's own guard), and for the best guard (``guard/``).
        base: Overrides the recipe's base, e.g. with a local folder.
        command: What was typed, for the rounds' records.
        report: Called with lines for people.

    Returns:
        What ``adversarial.json`` holds: of each round how many pairs were written, kept and why not, the AUC on the
        questions of the calibration that it was stopped by, and the metrics of the test; which round is best; why no
        other round followed; and what was written into ``guard/``.

    Raises:
        UsageError: The settings or the recipe make no sense, or the first round brought no pair.
        UselessModelError: In the first round none of a model's first answers can be read.
        BudgetSpentError: The budget is spent; run again with more to go on.
        EndpointsLostError: A model is gone, or was never there; run again to go on.
    """
    config, out, beside = AdversarialConfig.read(path), Path(out), Path(path).parent
    recipe = Recipe.read(beside / config.recipe)
    with CallStore(out / "calls.sqlite") as store:
        Cast(config, store, beside).check()
        field = _Field(recipe, config, data)
        if not finished(out / "round-0", recipe, data, base):
            check_servers(config, store, beside)
        # After that, for what it took is spent.
        cast = Cast(config, store, beside)
        rounds: list[dict[str, Any]] = []
        known: list[Sample] = []
        while True:
            folder = out / f"round-{len(rounds)}"
            report(f"round {len(rounds)}: training")
            trained = finished(folder, recipe, data, base) or train_classifier(
                recipe, data, folder, base=base, shared_stages=out / "stages", command=command, report=report
            )
            guard = load_guard(f"{'mini' if recipe.encoder else 'ngram'}:{folder / 'guard'}", calibration=None)
            watched = field.watch(guard)
            rounds.append({**_brought(folder), "auc": watched, "test": trained["test"]["guard"]})
            report(f"round {len(rounds) - 1}: mean AUC {_mean(watched):.4f}")
            if ended := _ended(rounds, config):
                break
            number = len(rounds)
            try:
                written = field.chosen(guard, Adversary(cast, config).write(field.wrong(guard), number), known)
                why = _why_none(written)
            except UselessModelError as error:
                if number == 1:
                    raise
                written, why = Written([], [Reject(str(error), {})]), str(error)
            if not written.samples and number == 1:
                raise UsageError(why)
            learnt = _write(out / f"round-{number}", written, data)
            if not written.samples:
                ended = {"by": "pairs", "why": why, "round": number, **_brought(out / f"round-{number}")}
                break
            recipe = _with(recipe, config, learnt, number)
            known += written.samples
            report(f"round {number}: {len(written.samples)} pairs, {len(written.rejects)} rejects")
        report(f"round {ended['round']}: {ended['why']}; it ends here")
        best = max(range(len(rounds)), key=lambda number: (_mean(rounds[number]["auc"]), -number))
        files = _publish(out, out / f"round-{best}", report)
        result = {
            "best": best,
            "ended": ended,
            "rounds": rounds,
            "usage": {one.model: vars(one.usage) for one in cast.used()},
            "settings": config.model_dump(mode="json", exclude_defaults=True),
            "files": files,
        }
    write_atomic(out / RECORD, json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    return result


class _Field:
    """The samples that a classifier is tried on."""

    def __init__(self, recipe: Recipe, config: AdversarialConfig, data: str | Path) -> None:
        self._config = config
        reader = Reader(data, seed=recipe.draws)
        # All of it, what is shown besides in later rounds too: a mistake there must not cost the rounds before.
        check_mixture(_replaying(recipe, config), reader.afresh(recipe.draws))
        self._watched = {
            f"{source.set} ({source.path})": reader.samples(source, Split.CALIBRATE)
            for source in recipe.calibration.data
        }
        stages = [source for stage in recipe.stages for source in stage.data]
        self._pool = _drawn(_pairs_of(reader, [*stages, *(recipe.ngrams.data if recipe.ngrams else [])]), config)
        held = [source for source in recipe.test if not source.unseen]
        held_out = [sample for source in held for sample in reader.samples(source, Split.TEST)]
        unseen = [one for source in recipe.test if source.unseen for one in reader.samples(source, Split.TEST)]
        self._held = [s.question for part in (*self._watched.values(), held_out, unseen) for s in part]

    def watch(self, guard: Guard) -> dict[str, float]:
        """Set → AUC on its calibration questions, of the sets that have both labels."""
        found = {}
        for name, samples in self._watched.items():
            unsafe = np.array([sample.label is Label.UNSAFE for sample in samples])
            if 0 < unsafe.sum() < len(unsafe):
                found[name] = float(metrics(unsafe, _scores(guard, samples), guard.threshold)["auc"])
        if not found:
            raise UsageError("calibration: no set has both labels, so no gain can be told")
        return found

    def wrong(self, guard: Guard) -> list[Sample]:
        """What the classifier is furthest from judging right: half of either label, the worst first."""
        right = _rightness(guard, self._pool)
        half = -(-self._config.seeds // 2)
        worst = sorted(range(len(self._pool)), key=lambda i: (right[i], str(self._pool[i].id)))
        chosen = [
            i for label in (Label.SAFE, Label.UNSAFE) for i in [j for j in worst if self._pool[j].label is label][:half]
        ]
        return [self._pool[i] for i in sorted(chosen, key=lambda i: right[i])]

    def chosen(self, guard: Guard, written: Written, known: Sequence[Sample]) -> Written:
        """What is new, far from all that is tested on, and judged wrong; it may be nothing."""
        near, samples = self._config.near, list(written.samples)
        rejects = list(written.rejects)
        if samples:
            pairs = [f"{one.question}\n{one.response}" for one in (*known, *samples)]
            twice = duplicates(sign(pairs, near)).of[len(known) :]
            tested = matches(sign([one.question for one in samples], near), self._held).of
            right = _rightness(guard, samples)
            reasons = [
                "near one written before" if one >= 0 else "near a held-out question" if two >= 0 else _judged(score)
                for one, two, score in zip(twice.tolist(), tested.tolist(), right.tolist(), strict=True)
            ]
            rejects += [
                Reject(why, one.model_dump(mode="json")) for one, why in zip(samples, reasons, strict=True) if why
            ]
            samples = [one for one, why in zip(samples, reasons, strict=True) if not why]
        return Written(samples, rejects)


def _why_none(written: Written) -> str:
    """What is said of a round without a pair."""
    said = Counter(reject.reason for reject in written.rejects).most_common(3)
    return f"no pair came of {len(written.rejects)} that were written: {dict(said)}"


def _judged(right: float) -> str:
    return "judged right already" if right > 0 else ""


def _scores(guard: Guard, samples: Sequence[Sample]) -> Any:
    return np.array([v.unsafe_score for v in guard.judge([s.conversation for s in samples])], dtype=np.float64)


def _rightness(guard: Guard, samples: Sequence[Sample]) -> Any:
    """How far each score lies on the right side of the threshold; below 0 on the wrong one. Shape (samples,)."""
    sides = np.array([1.0 if sample.label is Label.UNSAFE else -1.0 for sample in samples])
    return (_scores(guard, samples) - guard.threshold) * sides


def _pairs_of(reader: Reader, sources: Iterable[Source]) -> list[Sample]:
    """Training samples shown as pairs under their own label, each once."""
    found: dict[tuple[str, str], Sample] = {}
    for source in sources:
        if source.reads == "pair" and source.label is None:
            for sample in reader.samples(source, Split.TRAIN):
                found.setdefault((sample.question, sample.response), sample)
    if not found:
        raise UsageError("the recipe trains on no pairs: there is nothing to show the writer")
    return list(found.values())


def _drawn(samples: list[Sample], config: AdversarialConfig) -> list[Sample]:
    return random.Random(config.seed).sample(samples, min(len(samples), config.pool))


def _write(folder: Path, written: Written, data: str | Path) -> str:
    """Writes what a round brought; returns its path as recipes have it."""
    rows = folder / PAIRS
    rows.mkdir(parents=True, exist_ok=True)
    write_atomic(rows / "pairs.jsonl", "".join(as_json(one.model_dump(mode="json")) + "\n" for one in written.samples))
    lines = [as_json({"reason": one.reason, "row": one.row}, ensure_ascii=False) + "\n" for one in written.rejects]
    write_atomic(folder / "rejects.jsonl", "".join(lines))
    counts = Counter(one.reason for one in written.rejects)
    brought = {"pairs": len(written.samples), "rejects": dict(sorted(counts.items()))}
    write_atomic(folder / "round.json", json.dumps(brought, ensure_ascii=False, indent=2) + "\n")
    # Of the folders themselves: the way up from a link is not the way up from its name.
    return os.path.relpath(rows.resolve(), Path(data).resolve())


def _brought(folder: Path) -> dict[str, Any]:
    file = folder / "round.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _with(recipe: Recipe, config: AdversarialConfig, path: str, number: int) -> Recipe:
    """The recipe that learns a round's pairs besides."""
    # Like the samples that they were made of, where files are split that way.
    whole = any(source.whole for source in recipe.fitted_on)
    source = Source(set="samples", path=path, repeat=config.repeat, whole=whole)
    changes: dict[str, Any] = {}
    if recipe.encoder:
        told = config.stage.model_dump()
        stage = Stage(name=f"adversarial-{number}", data=[source, *config.replay], **told)
        changes["stages"] = [*recipe.stages, stage]
    if recipe.ngrams:
        changes["ngrams"] = recipe.ngrams.model_copy(update={"data": [*recipe.ngrams.data, source]})
    return recipe.model_copy(update=changes)


def _replaying(recipe: Recipe, config: AdversarialConfig) -> Recipe:
    """The recipe that learns what is shown beside a round's pairs, for a look at the data."""
    if not (recipe.encoder and config.replay):
        return recipe
    return recipe.model_copy(update={"stages": [*recipe.stages, Stage(name="replay", data=[*config.replay])]})


def _publish(out: Path, folder: Path, report: Report) -> dict[str, list[str]]:
    """Copies the best round's guard, so that it stands where those of other trainings do; returns what it wrote."""
    made = out / ".guard"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(folder / "guard", made)
    files = {"guard": placing.names_of(made)}
    placing.put_in_place(made, out / "guard", own=placing.written(out, "guard", record=RECORD), report=report)
    return files


def _mean(watched: dict[str, float]) -> float:
    return mean(watched.values())


def _ended(rounds: Sequence[dict[str, Any]], config: AdversarialConfig) -> dict[str, Any] | None:
    """By what and why the rounds are at their end; None where another one is worth it."""
    last = len(rounds) - 1
    if last >= config.rounds:
        return {"by": "rounds", "why": f"no more are asked for (rounds: {config.rounds})", "round": last}
    if last and (gain := _gain(rounds)) < config.gain:
        why = f"it gained {gain:.4f} in mean AUC, and less than {config.gain} is not worth another"
        return {"by": "gain", "why": why, "round": last}
    return None


def _gain(rounds: Sequence[dict[str, Any]]) -> float:
    return _mean(rounds[-1]["auc"]) - max(_mean(one["auc"]) for one in rounds[:-1])
