"""The whole of it: from a recipe and data to a guard that judges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import SafetensorError

from libra_guard import Conversation, Label, load_guard
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.calibration import Calibration, Platt
from libra_guard.io import file_hash
from libra_guard.train.card import rewrite_cards
from libra_guard.train.classifier import train_classifier
from libra_guard.train.encoder import EncoderTrainer
from libra_guard.train.export import export_guard, parity
from libra_guard.train.join import Joint
from libra_guard.train.mixture import Example, Reader, Split
from libra_guard.train.outputs import Outputs
from libra_guard.train.provenance import finished as found_finished
from libra_guard.train.recipe import Encoder, Recipe, Source
from libra_guard.train.wide import fit_wide

LABELS = Outputs.of("libra").labels
RESULTS = Path(__file__).resolve().parents[2] / "results"
KINDS = {"ngrams": ("ngrams",), "encoder": ("encoder",), "both": ("encoder", "ngrams")}
SEED = {"set": "libra-seed", "path": "seed.jsonl"}
SMILE = {"set": "smile", "path": "smile.jsonl"}


@dataclass
class Trained:
    """A finished run."""

    recipe: Recipe
    out: Path
    result: dict[str, Any]
    lines: list[str]


@pytest.fixture(scope="module")
def trained(
    data: Path, make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    made: dict[str, Trained] = {}

    def train(kind: str) -> Trained:
        if kind not in made:
            lines: list[str] = []
            recipe, out = make_recipe(*KINDS[kind]), tmp_path_factory.mktemp(kind)
            made[kind] = Trained(recipe, out, train_classifier(recipe, data, out, report=lines.append), lines)
        return made[kind]

    return train


# What is found wrong before anything is trained


def test_no_sample_has_a_name_of_ones_own(data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe("ngrams", outputs={"field": "kind", "names": ["茶事"]})
    with pytest.raises(
        UsageError, match="outputs: no unsafe training example has one of the names in its field 'kind'"
    ):
        train_classifier(recipe, data, tmp_path / "out", report=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ngrams": {"data": [{**SEED, "path": "none.jsonl"}]}}, "none.jsonl: no such file"),
        ({"ngrams": {"data": [{**SEED, "scenarios": ["Hate Speech and Abuse"]}]}}, "no sample for the train split"),
        ({"ngrams": {"data": [SMILE]}}, "ngrams: all .* examples are safe; both are needed"),
        ({"ngrams": {"data": [{**SEED, "label": "不安全"}]}}, "ngrams: all .* examples are unsafe; both"),
        ({"calibration": {"data": [SMILE]}}, "calibration: all .* examples are safe"),
        ({"calibration": {"data": [SEED], "benign": [{**SMILE, "set": "jade"}]}}, "no sample for the calibrate split"),
        ({"test": [{**SEED, "path": "seed.txt"}]}, "no such file"),
        ({"encoder": {"base": "/nowhere"}}, "there is no model folder '/nowhere'"),
    ],
)
def test_wrong_before_training(
    data: Path,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for trains in ("libra_guard.train.classifier.fit_wide", "libra_guard.train.encoder.EncoderTrainer.fit"):
        monkeypatch.setattr(trains, lambda *_, **__: pytest.fail("trained"))
    parts = KINDS["both" if "encoder" in changes else "ngrams"]
    with pytest.raises(UsageError, match=message):
        train_classifier(make_recipe(*parts, **changes), data, tmp_path / "out", report=lambda _: None)
    assert not (tmp_path / "out").exists()


# The guard


@pytest.mark.parametrize("kind", KINDS)
def test_the_guard_judges_by_the_rule(trained: Callable[[str], Trained], data: Path, kind: str) -> None:
    run = trained(kind)
    guard = load_guard(f"mini:{run.out / 'guard'}")
    tests = Reader(data, seed=42).read([Source(**SEED)], Split.TEST)
    verdicts = guard.judge([Conversation.from_pair(*e.text) for e in tests])
    assert np.mean([(v.label is Label.UNSAFE) == e.unsafe for v, e in zip(verdicts, tests, strict=True)]) > 0.8
    assert {tuple(v.categories) for v in verdicts} == {LABELS[1:]}
    assert guard.threshold == run.result["threshold"]
    question = guard.judge([Conversation.from_pair("怎么泡好茶？")], explain=True)[0]
    assert question.valid
    assert question.analysis


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_answer_is_judged_whole(trained: Callable[[str], Trained], kind: str) -> None:
    guard = load_guard(f"mini:{trained(kind).out / 'guard'}")
    long = "今天天气很好，我们去公园。" * 40
    verdict = guard.judge([Conversation.from_pair("怎么泡好茶？", f"{long}{'可以帮你泡好茶。' * 20}{long}")])[0]
    assert verdict.valid
    assert (verdict.windows > 1) == (kind != "ngrams")


@pytest.mark.parametrize("kind", KINDS)
def test_files(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    expected = {"model.onnx", "config.json", "README.md"} | ({"tokenizer.json"} if kind != "ngrams" else set())
    assert {p.name for p in (run.out / "guard").iterdir()} == expected
    config = json.loads((run.out / "guard" / "config.json").read_text())
    assert (config["name"], config["labels"], config["threshold"]) == (
        run.recipe.name,
        list(LABELS),
        run.result["threshold"],
    )
    assert ("ngrams" in config, "max_length" in config) == (kind != "encoder", kind != "ngrams")
    assert json.loads((run.out / "train.json").read_text()) == run.result


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_what_the_parts_say(trained: Callable[[str], Trained], kind: str) -> None:
    found = trained(kind).result["parity"]
    tests = sum(sum(c.values()) for c in trained(kind).result["examples"]["test"].values())
    assert found["compared"] + found["longer"] == tests > 20
    assert found["compared"] > 20
    assert found["label_agreement"] > (0.999 if kind == "ngrams" else 0.9)
    assert found["median_score_difference"] < (0.001 if kind == "ngrams" else 0.02)


def test_metrics_by_part(trained: Callable[[str], Trained]) -> None:
    result = trained("both").result
    assert set(result["test"]) == {"guard", "encoder", "ngrams"}
    assert set(trained("ngrams").result["test"]) == {"guard"}
    pairs = result["test"]["guard"]["libra-seed (pair)"]
    assert pairs["n"] == sum(result["examples"]["test"]["libra-seed"].values())
    assert pairs["f1_unsafe"] > 0.8
    assert result["test"]["guard"]["smile (pair)"]["f1_unsafe"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_card(trained: Callable[[str], Trained], data: Path, kind: str) -> None:
    run = trained(kind)
    card = (run.out / "guard" / "README.md").read_text()
    _, header, card = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "language": ["zh"],
        "library_name": "onnx",
        "license": "other",
        "license_name": "see-training-data",
        "pipeline_tag": "text-classification",
        "tags": ["safety", "guardrails", "content-moderation"],
    }
    assert card.startswith(f"\n# {run.recipe.name}\n")
    for told in (
        "Apache-2.0",
        "CC0-1.0",
        "https://github.com/qiuhuachuan/smile",
        f"Threshold: {run.result['threshold']}",
    ):
        assert told in card
    for name in ("seed.jsonl", "smile.jsonl"):
        assert f"| {name} | `{file_hash(data / name)}` |" in card
    assert ("Its encoder is cut from" in card) == (kind != "ngrams")
    assert ("stage `second`" in card) == (kind != "ngrams")
    assert f"{run.result['parity']['compared']:.0f} of these texts" in card
    assert "{" not in card
    assert "\n\n\n" not in card
    versions = run.result["provenance"]["versions"]
    assert all(f"{name} {version}" in card for name, version in versions.items())


def test_rows_left_out_are_told(trained: Callable[[str], Trained]) -> None:
    assert trained("ngrams").lines[0] == "rows left out, by set: {'smile': 1}"


# What a small set does not tell


def small(path: Path, rows: int) -> Path:
    """A folder with ``own.csv``, whose rows have no category."""
    lines = [f"第{i}件事怎么办,{said}" for i in range(rows) for said in ("可以帮你,不安全", "不太方便,安全")]
    path.mkdir()
    (path / "own.csv").write_text("\n".join(["question,response,label", *lines]), encoding="utf-8")
    return path


OWN_ROWS = {"set": "samples", "path": "own.csv"}
CARELESS = {"ngrams": {"data": [OWN_ROWS]}, "calibration": {"data": [OWN_ROWS]}, "test": [OWN_ROWS]}


@pytest.mark.parametrize("rows", [30, 200])
def test_the_run_and_the_card_tell_what_a_small_set_does_not(
    make_recipe: Callable[..., Recipe], tmp_path: Path, rows: int
) -> None:
    lines: list[str] = []
    out = tmp_path / "out"
    result = train_classifier(make_recipe(**CARELESS), small(tmp_path / "data", rows), out, report=lines.append)
    enough = rows == 200
    assert (result["examples"]["calibration"]["samples"]["unsafe"] >= 10) == enough
    assert result["calibrated"] == (["unsafe"] if enough else [])
    assert result["untaught"] == list(LABELS[1:])
    assert any(line.startswith("scores that are not calibrated") for line in lines) == (not enough)
    assert any("tell little of a threshold" in line for line in result["remarks"]) == (not enough)
    assert any("no benign pairs, so false_positives limits nothing" in line for line in result["remarks"])
    card = (out / "guard" / "README.md").read_text(encoding="utf-8")
    assert "No training example had any of these categories: their scores say nothing.\n" in card
    assert ("Its unsafe score is calibrated for the mixture above" in card) == enough
    assert ("Its scores are not calibrated: there were too few calibration examples.\n" in card) != enough
    for line in result["remarks"]:
        assert line in lines
        assert f"\n- {line}\n" in card
    assert "\n\n\n" not in card


def test_a_card_tells_which_categories_were_taught_and_calibrated(trained: Callable[[str], Trained]) -> None:
    run = trained("both")
    taught = ["Privacy and Property", "Ethics and Morality"]
    assert run.result["untaught"] == [name for name in LABELS[1:] if name not in taught]
    assert run.result["calibrated"] == ["unsafe"]
    card = (run.out / "guard" / "README.md").read_text(encoding="utf-8")
    assert f"No training example had {', '.join(run.result['untaught'])}: those scores say nothing.\n" in card
    assert "too few calibration examples\nhad, or had not, Privacy and Property, Ethics and Morality, so those" in card
    assert any(line.endswith("not to be: Privacy and Property, Ethics and Morality") for line in run.lines)
    # The encoder alone is not what was calibrated.
    alone = (run.out / "hub" / "README.md").read_text(encoding="utf-8")
    assert "The encoder's scores alone are not calibrated.\n" in alone


def test_the_limit_on_questions_goes_by_its_own_name(
    data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    asked = {**SEED, "reads": "question", "label": "不安全"}
    calibration = {"data": [SEED], "benign": [SMILE], "false_positives": 0.2, "questions": [asked]}
    result = train_classifier(make_recipe("ngrams", calibration=calibration), data, tmp_path, report=lambda _: None)
    (line,) = [line for line in result["remarks"] if "questions" in line]
    assert line.endswith("calibration questions are unsafe: they tell no threshold")


def test_without_tests(data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    result = train_classifier(make_recipe("ngrams", test=[]), data, tmp_path, report=lambda _: None)
    assert (result["test"], result["parity"]) == ({}, {})
    card = (tmp_path / "guard" / "README.md").read_text()
    assert "Measured" not in card
    assert "\n\n\n" not in card


# A language model, a taxonomy of one's own, class weights

OWN = {"set": "libra-seed", "path": "own.jsonl"}
KIND = {"field": "kind", "names": ["茶事", "画事", "别的"]}


@pytest.fixture(scope="module")
def own(data: Path, causal_base: Path, make_recipe: Callable[..., Recipe], tmp_path_factory: Any) -> Trained:
    rows = [json.loads(line) for line in (data / "seed.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds = ["茶事", "画事"]
    lines = [json.dumps({**row, "kind": kinds[int(row["pair_id"]) % 2]}, ensure_ascii=False) for row in rows]
    (data / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rates = {"learning_rate": 3e-3, "head_learning_rate": 1e-2}
    recipe = make_recipe(
        outputs=KIND,
        encoder={
            "base": str(causal_base),
            "freeze_vocabulary": False,
            "max_length": 128,
            "positive_weight": "balanced",
        },
        stages=[{"name": "only", "data": [OWN, SMILE], "epochs": 4, **rates}],
        calibration={"data": [OWN], "benign": [SMILE], "false_positives": 0.2},
        test=[OWN, SMILE],
    )
    said: list[str] = []
    out = tmp_path_factory.mktemp("own")
    result = train_classifier(recipe, data, out, command="libra train classifier own.yaml", report=said.append)
    return Trained(recipe, out, result, said)


def test_a_language_model_learns_a_taxonomy_of_ones_own(own: Trained, data: Path) -> None:
    assert "no training example of: 别的" in own.lines
    tests = Reader(data, seed=42, outputs=Outputs.of(own.recipe.outputs)).read([Source(**OWN)], Split.TEST)
    pairs = [Conversation.from_pair(*e.text) for e in tests]
    guard = load_guard(f"mini:{own.out / 'guard'}")
    verdicts = guard.judge(pairs, explain=True)
    assert np.mean([(v.label is Label.UNSAFE) == e.unsafe for v, e in zip(verdicts, tests, strict=True)]) > 0.9
    assert {tuple(v.categories) for v in verdicts} == {tuple(KIND["names"])}
    assert any("涉及：" in (v.analysis or "") for v in verdicts)
    found = own.result["parity"]
    assert (found["compared"], found["longer"]) == (len(tests) + 10, 0)
    assert found["largest_score_difference"] < 0.05
    # The same weights in the other form.
    other = load_guard(f"mini:{own.out / 'hub'}", backend="transformers")
    assert other.threshold == guard.threshold
    for one, two in zip(verdicts, other.judge(pairs), strict=True):
        assert one.unsafe_score == pytest.approx(two.unsafe_score, abs=0.05)


def test_what_is_told_of_it(own: Trained) -> None:
    config = json.loads((own.out / "guard" / "config.json").read_text(encoding="utf-8"))
    assert {key: config[key] for key in ("labels", "system", "field")} == {
        "labels": ["unsafe", *KIND["names"]],
        "system": None,
        "field": "kind",
    }
    assert own.result["hub"] == {"form": "classifier", "pooling": "last"}
    assert own.result["provenance"]["command"] == "libra train classifier own.yaml"
    lower, upper = own.result["test"]["guard"]["libra-seed (pair)"]["intervals"]["accuracy"]
    assert 0.5 < lower <= own.result["test"]["guard"]["libra-seed (pair)"]["accuracy"] <= upper
    for folder, library in (("guard", "onnx"), ("hub", "transformers")):
        card = (own.out / folder / "README.md").read_text(encoding="utf-8")
        assert f"library_name: {library}\n" in card
        assert "scores for: 茶事, 画事, 别的." in card
        assert f"({lower}–{upper})" in card
        assert "libra train classifier own.yaml" in card
        assert "positive_weight: balanced" in card
        assert ("AutoModelForSequenceClassification" in card) == (folder == "hub")


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_for_the_hub(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    if kind == "ngrams":
        assert run.result["hub"] is None
        assert not (run.out / "hub").exists()
        return
    assert run.result["hub"] == {"form": "encoder", "pooling": "mean"}
    config = json.loads((run.out / "hub" / "config.json").read_text(encoding="utf-8"))
    assert config["labels"] == list(LABELS)
    # The encoder alone, where the n-grams are missing, has not the whole's threshold.
    alone = kind == "both"
    assert config["threshold"] == (0.5 if alone else run.result["threshold"])
    card = (run.out / "hub" / "README.md").read_text(encoding="utf-8")
    assert ("This is the encoder alone" in card) == alone
    assert (f"Threshold: {run.result['threshold']}" in card) != alone
    assert "\n\n\n" not in card


@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_are_written_again(trained: Callable[[str], Trained], tmp_path: Path, kind: str) -> None:
    run = Path(shutil.copytree(trained(kind).out, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.glob("*/README.md")}
    for path in before:
        path.unlink()
    assert set(rewrite_cards(run)) == set(before)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_without_an_encoder_leaves_no_other_ones_form(
    data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "hub").mkdir()
    train_classifier(make_recipe("ngrams"), data, tmp_path, report=lambda _: None)
    assert not (tmp_path / "hub").exists()


# Going on


def test_a_run_killed_before_its_guard_is_in_place_tells_of_none(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the one that stood there before, either."""
    run, out = trained("ngrams"), tmp_path / "run"
    shutil.copytree(run.out, out)
    (out / "guard" / "config.json").write_text("{}")

    class Killed(Exception):
        pass

    def killed(self: Path, target: Path) -> Path:
        raise Killed

    assert found_finished(out, run.recipe, data, None) == run.result
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            train_classifier(run.recipe, data, out, report=lambda _: None)
    assert found_finished(out, run.recipe, data, None) is None
    train_classifier(run.recipe, data, out, report=lambda _: None)
    assert found_finished(out, run.recipe, data, None) == run.result


@pytest.fixture
def finished(trained: Callable[[str], Trained], tmp_path: Path) -> Path:
    """A copy of the encoder's run."""
    return Path(shutil.copytree(trained("encoder").out, tmp_path / "run"))


def stages(data: Path, recipe: Recipe, out: Path) -> list[bool]:
    """Which stages were taken from the folder."""
    lines: list[str] = []
    train_classifier(recipe, data, out, report=lines.append)
    return ["taken from" in line for line in lines if line.startswith("stage")]


def calibrate(folder: Path, **options: Any) -> bytes:
    """Puts a calibration of the guard there beside it; returns the file."""
    guard = load_guard(f"mini:{folder}", **options)
    made = Calibration(response=Platt(temperature=2, bias=0.5, threshold=0.75), fitted_on=guard.provenance())
    (folder / "calibration.json").write_text(made.text(), encoding="utf-8")
    return (folder / "calibration.json").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_leaves_a_calibration_in_force(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, kind: str
) -> None:
    run, out = trained(kind), tmp_path / "run"
    shutil.copytree(run.out, out)
    calibrations = {out / "guard": calibrate(out / "guard")}
    if kind != "ngrams":
        calibrations[out / "hub"] = b"theirs"
        (out / "hub" / "calibration.json").write_bytes(b"theirs")
    (out / "guard" / "README.md").write_text("an old card")
    lines: list[str] = []
    assert train_classifier(run.recipe, data, out, report=lines.append) == run.result
    assert {folder: (folder / "calibration.json").read_bytes() for folder in calibrations} == calibrations
    assert load_guard(f"mini:{out / 'guard'}").threshold == 0.75
    assert (out / "guard" / "README.md").read_bytes() == (run.out / "guard" / "README.md").read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in run.out.iterdir()}
    assert not [line for line in lines if "calibration.json" in line]


def test_a_calibration_of_another_guard_is_kept_apart_and_told_of(
    trained: Callable[[str], Trained], finished: Path, data: Path
) -> None:
    recipe, calibration = trained("encoder").recipe, calibrate(finished / "guard")
    (finished / "hub" / "notes.txt").write_text("theirs")
    budget = recipe.calibration.model_copy(update={"data": [Source(**SEED, sample=20)]})
    lines: list[str] = []
    result = train_classifier(recipe.model_copy(update={"calibration": budget}), data, finished, report=lines.append)
    assert load_guard(f"mini:{finished / 'guard'}").threshold == result["threshold"]
    assert {path.name for path in (finished / "guard").iterdir()} == set(result["files"]["guard"])
    assert (finished / "guard.old" / "calibration.json").read_bytes() == calibration
    assert (finished / "hub.old" / "notes.txt").read_text() == "theirs"
    told = [line for line in lines if " held another guard" in line]
    assert [line.split(" now: ")[1].partition(";")[0] for line in told] == ["calibration.json", "notes.txt"]


def test_stages_are_kept(trained: Callable[[str], Trained], finished: Path, data: Path) -> None:
    run = trained("encoder")
    assert stages(data, run.recipe, finished) == [True, True]
    assert json.loads((finished / "train.json").read_text()) == run.result


@pytest.mark.parametrize("cut", [0, 5000, None])
def test_a_finished_stage_that_is_damaged_is_trained_anew(
    trained: Callable[[str], Trained], finished: Path, data: Path, cut: int | None
) -> None:
    run, weights = trained("encoder"), finished / "stage-first" / "encoder.safetensors"
    whole = weights.read_bytes()
    weights.unlink() if cut is None else weights.write_bytes(whole[:cut])
    lines: list[str] = []
    result = train_classifier(run.recipe, data, finished, report=lines.append)
    (told,) = [line for line in lines if "damaged" in line]
    assert told.startswith(f"stage 'first': {finished / 'stage-first'} is damaged and is trained anew: ")
    assert weights.read_bytes() == whole
    assert result == run.result


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda r: r["stages"][1].update(epochs=1), [True, False]),
        (lambda r: r["stages"][1]["data"][0].update(sample=50), [True, False]),
        (lambda r: r["stages"][0].update(learning_rate=1e-3), [False, False]),
        (lambda r: r["encoder"].update(layers=[0]), [False, False]),
        (lambda r: r.update(seed=7), [False, False]),
        (lambda r: r.update(dtype="bfloat16"), [False, False]),
        (lambda r: r["calibration"].update(false_positives=0.5), [True, True]),
    ],
)
def test_a_changed_recipe_trains_what_depends_on_it(
    trained: Callable[[str], Trained], finished: Path, data: Path, change: Callable[[Any], Any], kept: list[bool]
) -> None:
    recipe = trained("encoder").recipe.model_dump(mode="json")
    change(recipe)
    assert stages(data, Recipe.model_validate(recipe), finished) == kept


def test_a_run_killed_between_stages_goes_on(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, fit = trained("encoder").recipe, EncoderTrainer.fit

    def killed(self: EncoderTrainer, stage: Any, examples: Any) -> None:
        if stage.name == "second":
            raise KeyboardInterrupt
        fit(self, stage, examples)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(recipe, data, tmp_path, report=lambda _: None)
    first = (tmp_path / "stage-first" / "encoder.safetensors").read_bytes()
    assert not (tmp_path / "guard").exists()
    assert stages(data, recipe, tmp_path) == [True, False]
    assert (tmp_path / "stage-first" / "encoder.safetensors").read_bytes() == first
    assert first == (trained("encoder").out / "stage-first" / "encoder.safetensors").read_bytes()
    assert load_guard(f"mini:{tmp_path / 'guard'}").judge([Conversation.from_pair("今天")])[0].valid


def test_a_kill_while_saving_leaves_no_mark_of_an_earlier_recipe(
    trained: Callable[[str], Trained], finished: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = trained("encoder").recipe
    second = recipe.stages[1].model_copy(update={"epochs": 1})
    other = recipe.model_copy(update={"stages": [recipe.stages[0], second]})

    def killed(self: EncoderTrainer, folder: Path) -> None:
        (folder / "encoder.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(other, data, finished, report=lambda _: None)
    assert stages(data, recipe, finished) == [True, False]


# The libraries' own words.
FULL = "No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("writer", "error", "place", "kept"),
    [
        ("libra_guard.train.encoder.EncoderTrainer.save", Exception(FULL), "stage-second", [True, False]),
        ("safetensors.torch.save_file", SafetensorError(f"I/O error: {FULL}"), "stage-second", [True, False]),
        ("libra_guard.train.export.export_guard", Exception(FULL), "run", [True, True]),
        ("libra_guard.train.hub.save_file", SafetensorError(f"I/O error: {FULL}"), "hub", [True, True]),
    ],
)
def test_a_full_disk_is_told_of_and_the_run_goes_on(
    trained: Callable[[str], Trained],
    finished: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    error: Exception,
    place: str,
    kept: list[bool],
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    recipe = trained("encoder").recipe
    if not kept[1]:
        (finished / "stage-second" / "done").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(writer, full)
        with pytest.raises(BackendError, match=f"{place}: the disk is full; make room and run the same again"):
            train_classifier(recipe, data, finished, report=lambda _: None)
    assert stages(data, recipe, finished) == kept


# The export


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((0.995, 0.02, 0.5), []),
        ((0.99499, 0.01, 0.5), ["99.499 % of the labels are the same (wanted: 99.5 % or more)", "differs by 0.01 in"]),
        (
            (1.0, 0.02001, 0.5),
            ["100 % of the labels are the same", "differs by 0.02001 in the median (wanted: 0.02 or less)"],
        ),
        # No text could be compared.
        ((), []),
    ],
)
def test_a_file_that_is_far_from_its_parts_is_told_of(
    data: Path,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: tuple[float, ...],
    told: list[str],
) -> None:
    names = ("label_agreement", "median_score_difference", "largest_score_difference")
    made = {"compared": 9.0, "longer": 0.0, **dict(zip(names, found, strict=False))}
    monkeypatch.setattr("libra_guard.train.export.parity", lambda *_: made)
    lines: list[str] = []
    train_classifier(make_recipe("ngrams"), data, tmp_path, report=lines.append)
    short = [line for line in lines if "not near enough to its parts" in line]
    assert len(short) == bool(told)
    assert all(part in line for line in short for part in told)


def test_the_bundled_guard_in_int8_says_what_its_parts_say() -> None:
    told = json.loads((RESULTS / "mini-train.json").read_text(encoding="utf-8"))
    config = json.loads((files("libra_guard") / "assets" / "mini" / "config.json").read_text(encoding="utf-8"))
    # So it is this file that was compared.
    for key in ("name", "threshold", "question_threshold"):
        assert told[key] == config[key]
    assert told["parity"]["compared"] > 1000
    assert told["parity"]["label_agreement"] >= 0.995
    assert told["parity"]["median_score_difference"] <= 0.02


def test_both_parts_in_one_file(base: Path, data: Path, tmp_path: Path) -> None:
    """Against the join computed by hand, with scales that tell the parts and the outputs apart."""
    import onnx

    reader = Reader(data, seed=1)
    examples = reader.read([Source(**SEED)], Split.TRAIN)
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "ngrams": {"data": [SEED], "buckets": 1 << 12},
            "calibration": {"data": [SEED]},
        }
    )
    assert recipe.ngrams
    wide = fit_wide(recipe.ngrams, examples, seed=1)
    trainer = EncoderTrainer(
        Encoder(base=str(base), vocabulary=1, max_length=64),
        [t for e in examples for t in e.text],
        labels=LABELS,
        seed=1,
        dtype="float32",
        report=lambda _: None,
    )
    # A fresh head says next to nothing: make it speak up.
    trainer.model.head.weight.data *= 10
    joint = Joint(np.linspace(0.5, 2, 8), np.linspace(1.5, 0.2, 8), np.linspace(-1, 1, 8))
    training = trainer.model.training
    export_guard(tmp_path, trainer=trainer, wide=wide, joint=joint, config={"labels": list(LABELS), "name": "x"})
    assert trainer.model.training == training
    texts = [*(e.text for e in examples[:30]), "怎么泡好茶?", ("", "好")]
    deep, other = trainer.logits(texts), wide.logits(texts)
    wanted = deep * joint.deep_scale + other * joint.wide_scale + joint.bias
    found = load_guard(f"mini:{tmp_path}").backend.logits(texts)
    for part in (deep * joint.deep_scale, other * joint.wide_scale, joint.bias):
        assert np.abs(found - wanted).mean() < 0.1 * np.std(part)
    np.testing.assert_allclose(found, wanted, atol=0.25)
    told = parity(tmp_path, texts, wanted, np.full(len(texts), 0.5))
    assert told["compared"] == len(texts)
    kinds = {t.name: t.data_type for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert kinds["table"] == onnx.TensorProto.FLOAT16
    assert onnx.TensorProto.INT8 in kinds.values()


def test_parity_leaves_out_what_the_parts_read_cut(trained: Callable[[str], Trained]) -> None:
    guard = trained("encoder").out / "guard"
    long: list[Any] = ["今天天气很好" * 60, ("怎么泡好茶?", "今天天气很好" * 12)]
    assert parity(guard, long, np.zeros((2, 8)), np.full(2, 0.5)) == {"compared": 0, "longer": 2}
    assert parity(guard, ["今天", *long], np.zeros((3, 8)), np.full(3, 0.5))["compared"] == 1
    assert parity(trained("ngrams").out / "guard", long, np.zeros((2, 8)), np.full(2, 0.5))["compared"] == 2


def test_examples_print_alike_for_ever() -> None:
    """The marks of finished stages are hashes of these: another form would train every stage anew."""
    example = Example(("问", "答"), (1.0, *[float("nan")] * 7), "s", "问")
    assert str(example) == (
        "Example(text=('问', '答'), targets=(1.0, nan, nan, nan, nan, nan, nan, nan), source='s', question='问')"
    )
    plain = "base='b' layers=None vocabulary=None freeze_vocabulary=True frozen_layers=0 max_length=512"
    assert str(Encoder(base="b")) == plain
    # What came later changes the mark only where it is set.
    other = Encoder(base="b", pooling="mean", positive_weight="balanced", category_weight=1)
    assert str(other) == f"{plain} pooling='mean' positive_weight='balanced' category_weight=1.0"
