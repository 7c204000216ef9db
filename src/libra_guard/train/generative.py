"""Trains a generative Libra guard from a recipe: a base model, taught in stages to write the label and then why.

libra train generative configs/train/qwen2.5-0.5b.yaml --data DATA --out runs/guard
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError

from libra_guard.errors import UsageError
from libra_guard.evaluate.metrics import Outcomes
from libra_guard.guards.libra import SETTINGS
from libra_guard.guards.registry import load_guard
from libra_guard.io import write_atomic
from libra_guard.records import Conversation, Label, Sample
from libra_guard.train.base_model import check_model, load_base, load_base_tokenizer, load_trained, narrow
from libra_guard.train.card import write_generative_card
from libra_guard.train.classifier import rounded
from libra_guard.train.disk import full_disk
from libra_guard.train.generative_recipe import GenerativeRecipe, GenerativeStage, Training
from libra_guard.train.join import choose_threshold
from libra_guard.train.lessons import Lesson, Teacher, lessons
from libra_guard.train.mixture import Reader, Split, as_example, need_both_labels
from libra_guard.train.placing import names_of, put_in_place, written
from libra_guard.train.provenance import hub_name, named_base, provenance_of
from libra_guard.train.recipe import Source
from libra_guard.train.sft import check_weights, fit, losses_of

Report = Callable[[str], None]
_NAMED = 3


def train_generative(
    recipe: GenerativeRecipe,
    data: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    shared_stages: Path | None = None,
    command: str | None = None,
    typed: Collection[str] = (),
    report: Report,
) -> dict[str, Any]:
    """Trains stage after stage, chooses a threshold, and measures the guard beside its untrained self.

    A stage whose result stands in ``out`` and was made of the same is not trained again; one that was cut off goes
    on from its last good checkpoint. Under ``accelerate launch`` all processes train, and the first one measures.
    Where the guard comes out the same, what was put beside it stays; else that goes to a folder of its own, which is
    told.

    Args:
        recipe: What to do.
        data: Folder that the sources' paths are relative to.
        out: Folder for the guard (``guard/``), the stages and ``train.json``.
        base: Overrides the recipe's base model, e.g. with a local folder.
        shared_stages: Keeps the stages here instead, where other runs that begin alike take them up.
        command: What was typed, for the record.
        typed: Dotted paths of the recipe's settings that it gave, for the lines that tell where each comes from.
        report: Called with lines for people, by the first process alone.

    Returns:
        What ``train.json`` holds: metrics by source of the guard and of the base, threshold, losses, provenance.
        Nothing in other processes than the first.

    Raises:
        UsageError: A set is missing or empty, an analysis contradicts its label, one label is missing, or the base
            cannot be used: before anything is trained.
        BackendError: The disk is full; the run goes on from its last checkpoint when it is started again.
    """
    # Told of the CPU, for it looks for other processes there only then.
    first = PartialState(cpu=not torch.cuda.is_available()).is_main_process
    say: Report = report if first else _silent
    if (seen := torch.cuda.device_count()) > PartialState().num_processes:
        say(f"{PartialState().num_processes} of {seen} GPUs in use; `accelerate launch` uses more")
    typed = [*typed, "model.base"] if base else typed
    out, base = Path(out), base or recipe.model.base
    if Path(base).is_dir():
        # An adapter names its base, and is used from other folders than this one.
        base = str(Path(base).resolve())
    reader = Reader(data, seed=recipe.draws)
    stages = recipe.resolved
    drawn = [reader.pairs(stage.data, Split.TRAIN) for stage in stages]
    calibrated = recipe.calibration
    calibration = reader.pairs(calibrated.data if calibrated else [], Split.CALIBRATE)
    benign = reader.pairs(calibrated.benign if calibrated else [], Split.CALIBRATE)
    test = reader.pairs(recipe.test, Split.TEST)
    for line in reader.left_out:
        say(line)

    say(_common(recipe, base, typed))
    tokenizer = load_base_tokenizer(base, recipe.model)
    check_model(base, recipe.model, tokenizer, {stage.name: stage.length for stage in stages})
    teacher = Teacher(tokenizer, base, recipe.teaching)
    shown, taught = [], []
    for stage, pairs in zip(stages, drawn, strict=True):
        kept, made = _teach(teacher, pairs, recipe, stage, say)
        say(_settings(recipe, stage, typed))
        shown.append(kept)
        taught.append(made)
    if calibration:
        need_both_labels("calibration", calibration)
    provenance = provenance_of(recipe, data, base, command)

    folder, losses = _train_stages(recipe, base, tokenizer, taught, provenance, shared_stages or out, say)
    if not first:
        return {}
    result: dict[str, Any] = {"name": recipe.name, "base": named_base(base), "base_model": hub_name(base)}
    remarks: list[str] = []
    result |= {"threshold": 0.5, "remarks": remarks, "test": {}}
    result["stages"] = [stage.model_dump(mode="json", exclude={"data"}) for stage in stages]
    gc.collect()
    # Built beside and put in place when all is known: a kill must not leave new weights at a wrong threshold.
    with full_disk(out):
        guard = _export(recipe, folder, out / ".guard")
    score = _Scorer(recipe, f"libra:{guard}", say)
    if calibrated:
        result["threshold"] = choose_threshold(
            _in_use(score(calibration)),
            [as_example(*pair) for pair in calibration],
            _in_use(score(benign)),
            false_positives=calibrated.false_positives,
            report=remarks.append,
        )
        for line in remarks:
            say(line)
        _write_settings(guard, recipe, result["threshold"])
    if test:
        result["test"]["guard"] = _measure(test, score(test), result["threshold"])
        if recipe.untrained:
            del score
            gc.collect()
            result["test"]["untrained"] = _measure(test, _Scorer(recipe, f"libra:{base}", say)(test), 0.5)
    result |= {
        "samples": {s.name: _counts(pairs) for s, pairs in zip(stages, shown, strict=True)}
        | {"calibration": _counts(calibration + benign), "test": _counts(test)},
        "losses": losses,
        "files": {"guard": names_of(guard)},
        "provenance": provenance,
    }
    write_generative_card(guard / "README.md", recipe, result)
    before = written(out, "guard")
    # What an earlier run told of its guard must not stand beside this one.
    (out / "train.json").unlink(missing_ok=True)
    put_in_place(guard, out / "guard", own=before, report=say)
    # Last, for it says that all is there.
    write_atomic(out / "train.json", json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    return result


def _silent(_: str) -> None: ...


_Pair = tuple[Sample, Source]


def _teach(
    teacher: Teacher, pairs: list[_Pair], recipe: GenerativeRecipe, stage: GenerativeStage, say: Report
) -> tuple[list[_Pair], list[Lesson]]:
    """The pairs of a stage that can be taught, and their lessons."""
    consistent = _consistent(teacher, pairs, recipe.teaching.contradictions, stage, say)
    made = lessons(teacher, [sample for sample, _ in consistent], length=stage.length)
    kept = [pair for pair, lesson in zip(consistent, made, strict=True) if lesson]
    longer = len(made) - len(kept)
    if longer and not kept:
        raise UsageError(f"stage '{stage.name}': all {longer} samples are longer than its {stage.length} tokens")
    need_both_labels(f"stage '{stage.name}'", kept)
    say(f"stage '{stage.name}': {len(kept)} samples; {longer} are longer than {stage.length} tokens and left out")
    return kept, [lesson for lesson in made if lesson]


def _consistent(
    teacher: Teacher, pairs: list[_Pair], contradictions: str, stage: GenerativeStage, say: Report
) -> list[_Pair]:
    """The pairs whose analysis does not come to the other label."""
    wrong = [sample for sample, _ in pairs if teacher.contradicts(sample)]
    if wrong and contradictions == "error":
        named = "\n".join(f"  {s.id}: labelled {s.label}: {s.analyze[:80]}" for s in wrong[:_NAMED])
        raise UsageError(
            f"stage '{stage.name}': of {len(pairs)} samples {len(wrong)} have an analysis that comes to the other "
            f"label (set teaching.contradictions to drop to leave them out):\n{named}"
        )
    if wrong:
        say(f"stage '{stage.name}': {len(wrong)} samples left out, whose analysis comes to the other label")
    left_out = {id(sample) for sample in wrong}
    return [(sample, source) for sample, source in pairs if id(sample) not in left_out]


def _common(recipe: GenerativeRecipe, base: str, typed: Collection[str]) -> str:
    """Every setting that is not a stage's, and where it comes from."""
    lora = {f"model.lora.{k}": v for k, v in recipe.model.lora or ()}
    values = {f"model.{k}": v for k, v in recipe.model if k not in ("base", "lora")} | (lora or {"model.lora": None})
    values |= {f"teaching.{k}": v for k, v in recipe.teaching}
    told = {"model.base": base, **values, "seed": recipe.seed}
    return "  " + ", ".join(f"{path} {value} ({recipe.whence(path, typed)})" for path, value in told.items())


def _settings(recipe: GenerativeRecipe, stage: GenerativeStage, typed: Collection[str]) -> str:
    """Every setting of a stage and where it comes from."""
    values = {name: getattr(stage, name) for name in Training.model_fields}
    told = [
        f"{name} {value} ({recipe.origin(stage.name, name, typed)})"
        for name, value in values.items()
        if value is not None
    ]
    return "  " + ", ".join(told)


def _train_stages(
    recipe: GenerativeRecipe,
    base: str,
    tokenizer: Any,
    taught: list[list[Lesson]],
    provenance: dict[str, Any],
    home: Path,
    say: Report,
) -> tuple[Path, dict[str, list[float]]]:
    """Trains or takes up every stage.

    Returns:
        The folder of the last one's model, and the losses that each stage logged.
    """
    state = PartialState()
    key = f"{recipe.model}{recipe.teaching}{recipe.seed}{provenance.get('base')}"
    model, before, losses = None, None, {}
    for stage, made in zip(recipe.resolved, taught, strict=True):
        # A stage stands on all before it, so its mark covers them too.
        key = hashlib.sha256(f"{key}{stage}{made}".encode()).hexdigest()
        folder = home / f"stage-{stage.name}-{key[:12]}"
        mark, logged = folder / "done", folder / "losses.json"
        damage = _damage(folder) if mark.exists() else None
        state.wait_for_everyone()
        if damage:
            say(f"stage '{stage.name}': {folder} is damaged and is trained anew: {damage}")
            if state.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
            state.wait_for_everyone()
        if mark.exists():
            say(f"stage '{stage.name}': taken from {folder}")
            model = None
        else:
            lora = None
            if model is None:
                model, lora = load_trained(before, recipe.model, base) if before else load_base(base, recipe.model)
            say(f"stage '{stage.name}': training")
            seed = recipe.seed if stage.seed is None else stage.seed
            checkpoints = folder / "checkpoints"
            trainer = fit(
                model, tokenizer, made, stage, recipe.model, seed=seed, folder=checkpoints, lora=lora, report=say
            )
            with full_disk(folder):
                trainer.save_model(str(folder / "model"))
            if state.is_main_process:
                write_atomic(logged, json.dumps(losses_of(trainer.state)) + "\n")
                write_atomic(mark, key)
                shutil.rmtree(checkpoints, ignore_errors=True)
            state.wait_for_everyone()
            # FSDP and DeepSpeed leave it wrapped or in shards: then the next stage reads what was saved.
            model = None if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled else trainer.model
            # The optimiser's states would take their memory beside those of the next stage's.
            del trainer
            gc.collect()
        losses[stage.name] = json.loads(logged.read_text())
        say(f"stage '{stage.name}': loss {_ends(losses[stage.name])}")
        before = folder / "model"
    assert before is not None
    return before, losses


def _damage(folder: Path) -> str | None:
    """What is wrong with a finished stage: a copy or a disk may have cut its files. None where all can be read."""
    weights = list((folder / "model").glob("*.safetensors"))
    try:
        for file in weights:
            check_weights(file)
        for file in (folder / "losses.json", *(folder / "model").glob("*.json")):
            json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        return f"{file.name}: {error}"
    return None if weights else "model: no weights"


def _ends(losses: list[float]) -> str:
    return f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "not logged: fewer than 10 updates"


def _export(recipe: GenerativeRecipe, trained: Path, guard: Path) -> Path:
    """Copies the trained model to where it is used: weights, tokenizer, and how it was taught."""
    shutil.rmtree(guard, ignore_errors=True)
    # What trainers leave beside the weights is theirs, and one of it a pickle.
    shutil.copytree(trained, guard, ignore=shutil.ignore_patterns("training_args.bin", "README.md"))
    if recipe.model.lora is None:
        narrow(guard, recipe.model)
    _write_settings(guard, recipe, 0.5)
    return guard


def _write_settings(guard: Path, recipe: GenerativeRecipe, threshold: float) -> None:
    teaching = recipe.teaching
    settings = {
        "critic": teaching.critic.value,
        "rules": teaching.rules,
        "instruct": teaching.instruct,
        "threshold": threshold,
    }
    write_atomic(guard / SETTINGS, json.dumps(settings, indent=2) + "\n")


class _Scorer:
    """Judges samples with a guard that is loaded when first needed; NaN where its answer is unreadable."""

    def __init__(self, recipe: GenerativeRecipe, spec: str, say: Report) -> None:
        self._spec, self._say, self._recipe = spec, say, recipe
        self._guard: Any = None

    def __call__(self, pairs: list[_Pair]) -> np.ndarray:
        if not pairs:
            return np.zeros(0)
        if self._guard is None:
            teaching = self._recipe.teaching
            self._guard = load_guard(
                self._spec,
                critic=teaching.critic,
                rules=teaching.rules,
                instruct=teaching.instruct,
                threshold=0.5,
                calibration=None,
                trust_remote_code=self._recipe.model.trust_remote_code,
            )
        self._say(f"judging {len(pairs)} pairs with {self._spec}")
        verdicts = self._guard.judge([Conversation.from_pair(s.question, s.response) for s, _ in pairs])
        return np.array([np.nan if v.unsafe_score is None else v.unsafe_score for v in verdicts])


def _in_use(scores: np.ndarray) -> np.ndarray:
    """What is unreadable is flagged whatever the threshold is."""
    return np.where(np.isnan(scores), 1.0, scores)


def _measure(pairs: list[_Pair], scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """Metrics by source; what is unreadable counts as flagged, as it would in use."""
    sets = np.array([source.called for _, source in pairs])
    unsafe = np.array([sample.label is Label.UNSAFE for sample, _ in pairs])
    readable = ~np.isnan(scores)
    flagged = ~readable | (scores >= threshold)
    nowhere = np.full(len(pairs), "")
    rows = Outcomes(unsafe, flagged, np.ones(len(pairs), dtype=bool), readable, scores, nowhere, nowhere)
    return {name: rounded(rows.where(sets == name)) for name in dict.fromkeys(sets.tolist())}


def _counts(pairs: list[_Pair]) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {}
    for sample, source in pairs:
        counted.setdefault(source.called, Counter())["unsafe" if sample.label is Label.UNSAFE else "safe"] += 1
    return {name: {"safe": found["safe"], "unsafe": found["unsafe"]} for name, found in counted.items()}
