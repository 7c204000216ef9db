"""Recipes changed in named ways: each way of changing, what is refused, and a study from file to plot."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from libra_guard import Conversation, load_guard
from libra_guard.errors import MissingExtraError, UsageError
from libra_guard.train import ablation, classifier
from libra_guard.train.ablation import Study, Variant, ablate, markdown
from libra_guard.train.encoder import EncoderTrainer
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.plots import plot_ablation
from libra_guard.train.recipe import Recipe

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "ablate").glob("*.yaml"))
SEED = {"set": "libra-seed", "path": "seed.jsonl"}
SMILE = {"set": "smile", "path": "smile.jsonl"}
WIDE: dict[str, Any] = {
    "name": "toy",
    "ngrams": {"data": [SEED, SMILE], "buckets": 1 << 12},
    "calibration": {"data": [SEED], "benign": [SMILE], "questions": [{**SEED, "reads": "question"}]},
    "test": [SEED, SMILE],
}
DEEP: dict[str, Any] = WIDE | {
    "encoder": {"base": "x", "layers": [0, 1]},
    "stages": [{"name": "first", "data": [SEED, SMILE], "epochs": 2}, {"name": "second", "data": [SEED]}],
}
STUDY: dict[str, Any] = {"recipe": "toy.yaml", "seeds": [1, 2], "variants": {"plain": {}}}


def write(folder: Path, study: Any, recipe: Any = DEEP) -> Path:
    """A study's file, beside that of its recipe."""
    for name, content in (("toy.yaml", recipe), ("study.yaml", study)):
        text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "study.yaml"


def recipes(folder: Path, study: Any, recipe: Any = DEEP) -> dict[tuple[str, int], Recipe]:
    path = write(folder, study, recipe)
    return Study.read(path).recipes(path)


def apply(variant: dict[str, Any], recipe: dict[str, Any] = DEEP) -> Recipe:
    return Variant.model_validate(variant).apply(Recipe.model_validate(recipe), "here")


def flat(settings: Any, path: str = "") -> dict[str, Any]:
    """Every single setting, by its dotted path."""
    if not isinstance(settings, dict | list):
        return {path[1:]: settings}
    members = settings.items() if isinstance(settings, dict) else enumerate(settings)
    return {place: value for name, member in members for place, value in flat(member, f"{path}.{name}").items()}


# Studies that make no sense


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("", "  it is empty"),
        ({k: v for k, v in STUDY.items() if k != "recipe"}, "  recipe: Field required"),
        ({k: v for k, v in STUDY.items() if k != "seeds"}, "  seeds: Field required"),
        ({k: v for k, v in STUDY.items() if k != "variants"}, "  variants: Field required"),
        (STUDY | {"colour": 1}, "  colour: there is no such key"),
        (STUDY | {"seeds": []}, "  seeds: "),
        (STUDY | {"seeds": [1, "many"]}, "  seeds.1: "),
        (STUDY | {"seeds": [1, 2, 1]}, "seeds: one stands there twice"),
        (STUDY | {"variants": {}}, "  variants: "),
        (STUDY | {"variants": {"plain": None}}, "  variants.plain: "),
        (STUDY | {"variants": {1: {}}}, "  variants.1."),
        (STUDY | {"variants": {"": {}}}, "variants: '' is no name for a folder"),
        (STUDY | {"variants": {"good": {}, "../up": {}}}, "variants: '../up' is no name for a folder"),
        (STUDY | {"variants": {"a/b": {}}}, "variants: 'a/b' is no name for a folder"),
        (STUDY | {"variants": {".hidden": {}}}, "variants: '.hidden' is no name for a folder"),
        (STUDY | {"variants": {"a|b": {}}}, "variants: 'a|b' is no name for a folder"),
        (STUDY | {"variants": {"odd": {"with": ["jade"]}}}, "  variants.odd.with: there is no such key"),
        (STUDY | {"variants": {"odd": {"stages": []}}}, "  variants.odd.stages: "),
        (STUDY | {"variants": {"odd": {"stages": "first"}}}, "  variants.odd.stages: "),
        (STUDY | {"variants": {"odd": {"set": ["seed"]}}}, "  variants.odd.set: "),
        (STUDY | {"variants": {"odd": {"share": {"first": 0}}}}, "a share is over 0 and at most 1; first: 0"),
        (STUDY | {"variants": {"odd": {"share": {"first": 1.5}}}}, "a share is over 0 and at most 1; first: 1.5"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, study: Any, message: str) -> None:
    with pytest.raises(UsageError, match=rf"study\.yaml: not an ablation study:\n(.*\n)*.*{re.escape(message)}"):
        recipes(tmp_path, study)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"set": {"stages.third.epochs": 1}}, "the recipe has no 'stages.third.epochs' that could be set"),
        ({"set": {"stages.0.epochs": 1}}, "the recipe has no 'stages.0.epochs' that could be set"),
        ({"set": {"stages.first.data.2.share": 0.5}}, "no 'stages.first.data.2.share' that"),
        ({"set": {"stages.first.data.smile.share": 0.5}}, "no 'stages.first.data.smile.share' that"),
        ({"set": {"stages.first.data.0": SEED}}, "no 'stages.first.data.0' that"),
        ({"set": {"encoder.layers.0.size": 1}}, "no 'encoder.layers.0.size' that"),
        ({"set": {"seed.of": 1}}, "seed: Input should be a valid integer"),
        ({"set": {"stages.first.epoch": 1}}, "not a training recipe:\n  stages.0.epoch: there is no such key"),
        ({"set": {"stages.first.epochs": 0}}, "not a training recipe:\n  stages.0.epochs: "),
        ({"set": {"stages": None}}, "not a training recipe:\n  stages: "),
        ({"set": {"calibration": 3}}, "not a training recipe:\n  calibration: "),
        ({"set": {"ngrams.data": [3]}}, "not a training recipe:\n  ngrams.data.0: "),
        ({"set": {"encoder": None}}, "stages an encoder"),
        ({"stages": ["third"]}, "the recipe has no stage 'third'; it has first, second"),
        ({"stages": ["first", "first"]}, "two have the same name"),
        ({"share": {"third": 0.5}}, "the recipe has no stage 'third'; it has first, second"),
        ({"without": ["jade"]}, "without: the recipe has no set 'jade'; it has libra-seed, smile"),
        ({"without": ["libra-seed"]}, "not a training recipe:\n  stages.1.data: "),
    ],
)
def test_a_variant_that_cannot_be_made_is_named(tmp_path: Path, variant: dict[str, Any], message: str) -> None:
    study = STUDY | {"variants": {"plain": {}, "odd": variant}}
    with pytest.raises(UsageError, match=rf"study\.yaml: variants\.odd: (.*\n)*.*{re.escape(message)}"):
        recipes(tmp_path, study)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"stages": ["first"]}, "the recipe has no stage 'first'; it has none"),
        ({"share": {"first": 0.5}}, "the recipe has no stage 'first'; it has none"),
        ({"mixture": True}, "mixture: the recipe has no stages"),
    ],
)
def test_without_stages(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^here: {re.escape(message)}$"):
        apply(variant, WIDE)


@pytest.mark.parametrize(
    ("study", "recipe", "message"),
    [
        (STUDY | {"recipe": "none.yaml"}, DEEP, r"none\.yaml: No such file"),
        (STUDY, DEEP | {"colour": 1}, r"toy\.yaml: not a training recipe:\n  colour: "),
        (STUDY | {"set": {"stages.third.epochs": 1}}, DEEP, r"study\.yaml: the recipe has no 'stages\.third\.epochs'"),
        (STUDY | {"set": {"seed": "many"}}, DEEP, r"study\.yaml: not a training recipe:\n  seed: "),
        (STUDY | {"seeded": "stages.third.seed"}, DEEP, r"variants\.plain: seeded: the recipe has no 'stages\.third"),
        (
            STUDY | {"seeded": "sede"},
            DEEP,
            r"variants\.plain: seeded: not a training recipe:\n  sede: there is no such",
        ),
        (
            STUDY | {"seeded": "stages.second.seed", "variants": {"first": {"stages": ["first"]}}},
            DEEP,
            r"variants\.first: seeded: the recipe has no 'stages\.second\.seed'",
        ),
        (STUDY, DEEP | {"test": []}, r"study\.yaml: all variants must be tested on the same sets, one at least"),
        (
            STUDY | {"variants": {"plain": {}, "other": {"set": {"test": [SEED]}}}},
            DEEP,
            "all variants must be tested on the same sets",
        ),
    ],
)
def test_a_study_that_cannot_be_done(tmp_path: Path, study: Any, recipe: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipes(tmp_path, study, recipe)


# The ways of changing


@pytest.mark.parametrize(
    ("variant", "changed"),
    [
        ({}, {}),
        ({"set": {"seed": 7, "encoder.frozen_layers": 1}}, {"seed": 7, "encoder.frozen_layers": 1}),
        ({"set": {"stages.second.epochs": 3}}, {"stages.1.epochs": 3}),
        ({"set": {"stages.first.data.1.share": 0.5}}, {"stages.0.data.1.share": 0.5}),
        ({"set": {"calibration.data.0.sample": 9}}, {"calibration.data.0.sample": 9}),
        ({"share": {"first": 0.25}}, {"stages.0.data.0.share": 0.25, "stages.0.data.1.share": 0.25}),
        (
            {"share": {"first": 0.25, "second": 1}, "set": {"stages.second.data.0.share": 0.5}},
            {"stages.0.data.0.share": 0.25, "stages.0.data.1.share": 0.25, "stages.1.data.0.share": 1},
        ),
    ],
)
def test_settings(variant: dict[str, Any], changed: dict[str, Any]) -> None:
    before = Recipe.model_validate(DEEP)
    kept = before.model_copy(deep=True)
    after = Variant.model_validate(variant).apply(before, "here")
    assert before == kept
    assert flat(after.model_dump(mode="json")) == flat(before.model_dump(mode="json")) | changed


def test_a_part_can_be_taken_out() -> None:
    assert apply({"set": {"ngrams": None}}) == Recipe.model_validate(DEEP | {"ngrams": None})
    assert apply({"set": {"encoder": None, "stages": []}}) == Recipe.model_validate(WIDE)


@pytest.mark.parametrize(
    ("variant", "stages"),
    [
        ({"stages": ["second"]}, [("second", ["libra-seed"], 1)]),
        ({"stages": ["second", "first"]}, [("second", ["libra-seed"], 1), ("first", ["libra-seed", "smile"], 2)]),
        ({"mixture": True}, [("mixture", ["libra-seed", "smile", "libra-seed"], 1)]),
        (
            {"mixture": True, "stages": ["second", "first"]},
            [("mixture", ["libra-seed", "libra-seed", "smile"], 1)],
        ),
        ({"mixture": True, "without": ["smile"]}, [("mixture", ["libra-seed", "libra-seed"], 1)]),
        ({"without": ["smile"]}, [("first", ["libra-seed"], 2), ("second", ["libra-seed"], 1)]),
        ({"set": {"stages.second.epochs": 5}, "stages": ["second"]}, [("second", ["libra-seed"], 5)]),
    ],
)
def test_stages(variant: dict[str, Any], stages: list[Any]) -> None:
    assert [(s.name, [d.set for d in s.data], s.epochs) for s in apply(variant).stages] == stages


def test_a_mixture_shows_as_much_as_the_stages() -> None:
    """Of each source, over all epochs."""
    recipe = DEEP | {"stages": [DEEP["stages"][0], {"name": "second", "data": [{**SEED, "repeat": 3}], "epochs": 5}]}
    (mixture,) = apply({"mixture": True}, recipe).stages
    assert [(source.set, source.repeat * mixture.epochs) for source in mixture.data] == [
        ("libra-seed", 2),
        ("smile", 2),
        ("libra-seed", 15),
    ]
    # Its other settings are the first stage's.
    (other,) = apply({"mixture": True, "stages": ["second", "first"]}, recipe).stages
    assert [source.repeat for source in other.data] == [15, 2, 2]


def test_a_mixture_of_generative_stages_shows_what_they_inherit() -> None:
    mixed = Variant(mixture=True).apply(GenerativeRecipe.model_validate(TAUGHT), "here")
    assert [(s.name, s.epochs, s.length, [d.repeat for d in s.data]) for s in mixed.resolved] == [
        ("mixture", 1, 256, [3, 3, 3])
    ]
    half = TAUGHT | {"stages": [{**TAUGHT["stages"][0], "epochs": 0.5}]}
    with pytest.raises(UsageError, match=r"^here: mixture: stage 'first' has 0\.5 epochs; whole ones can be mixed$"):
        Variant(mixture=True).apply(GenerativeRecipe.model_validate(half), "here")


def test_without_a_set_nothing_is_fitted_on_it_but_it_is_tested() -> None:
    after = apply({"without": ["smile"]})
    assert {source.set for source in after.fitted_on} == {"libra-seed"}
    assert after.calibration.benign == []
    assert after.test == Recipe.model_validate(DEEP).test


def test_runs(tmp_path: Path) -> None:
    study = STUDY | {"set": {"dtype": "float32"}, "variants": {"b": {}, "a": {"stages": ["second"]}}}
    found = recipes(tmp_path, study)
    assert list(found) == [("b", 1), ("b", 2), ("a", 1), ("a", 2)]
    assert {key: recipe.seed for key, recipe in found.items()} == {key: key[1] for key in found}
    assert {recipe.dtype for recipe in found.values()} == {"float32"}
    assert [len(recipe.stages) for recipe in found.values()] == [2, 2, 1, 1]


def test_the_seed_of_a_stage_alone(tmp_path: Path) -> None:
    found = recipes(tmp_path, STUDY | {"seeded": "stages.second.seed"})
    assert {recipe.seed for recipe in found.values()} == {42}
    assert [[stage.seed for stage in recipe.stages] for recipe in found.values()] == [[None, 1], [None, 2]]


def test_the_same_samples_with_every_seed(tmp_path: Path) -> None:
    found = recipes(tmp_path, STUDY | {"set": {"data_seed": 7}})
    assert [(recipe.seed, recipe.draws) for recipe in found.values()] == [(1, 7), (2, 7)]
    assert [recipe.draws for recipe in recipes(tmp_path, STUDY).values()] == [1, 2]


def test_what_yaml_shares_is_changed_in_one_place(tmp_path: Path) -> None:
    """Both in the recipe, where an anchor names one source three times, and in the study itself."""
    recipe = """
name: toy
ngrams: {data: &all [&seed {set: libra-seed, path: seed.jsonl}, {set: smile, path: smile.jsonl}]}
calibration: {data: [*seed]}
test: *all
"""
    variant = {"without": ["smile"], "set": {"calibration.benign": [SMILE], "ngrams.data.0.share": 0.5}}
    path = write(tmp_path, STUDY | {"variants": {"odd": variant}}, recipe)
    study = Study.read(path)
    kept = study.model_copy(deep=True)
    found = study.recipes(path)["odd", 1]
    assert found.ngrams
    assert [(source.set, source.share) for source in found.ngrams.data] == [("libra-seed", 0.5)]
    assert [(source.set, source.share) for source in found.calibration.data] == [("libra-seed", 1)]
    assert [(source.set, source.share) for source in found.test] == [("libra-seed", 1), ("smile", 1)]
    assert study == kept


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_projects_own_studies_make_recipes(path: Path) -> None:
    study = Study.read(path)
    found = study.recipes(path)
    assert len(found) == len(study.variants) * len(study.seeds)
    assert len({str(recipe) for recipe in found.values()}) == len(found)


@pytest.mark.parametrize("name", ["curriculum", "curriculum-gemma", "critic"])
def test_the_untrained_base_is_measured_once_with_each_prompt_of_interest(name: str) -> None:
    path = CONFIGS[0].with_name(f"{name}.yaml")
    found = Study.read(path).recipes(path)
    measured = {variant for (variant, _), recipe in found.items() if recipe.untrained}
    assert measured == ({"rear", "rear with rules"} if name == "critic" else {"curriculum"})


def test_the_longest_sample_fits_every_answers_form() -> None:
    """Else a variant with a longer prompt would be taught fewer: with the rules the longest pair is 1,300 tokens."""
    path = CONFIGS[0].with_name("critic.yaml")
    found = Study.read(path).recipes(path)
    assert {stage.length for recipe in found.values() for stage in recipe.resolved} == {2048}


@pytest.mark.parametrize("name", ["libra-seed", "libra-seed-ngram"])
def test_what_libra_seed_is_worth(name: str) -> None:
    path = CONFIGS[0].with_name(f"{name}.yaml")
    found = Study.read(path).recipes(path)
    for (variant, _), recipe in found.items():
        assert ("libra-seed" in {source.set for source in recipe.fitted_on}) == (variant == "with")
    if name == "libra-seed":
        assert len({str((recipe.encoder, recipe.seed, recipe.stages[0])) for recipe in found.values()}) == 1


# A study of n-grams from file to plot


@dataclass
class Done:
    """A finished study."""

    path: Path
    out: Path
    result: dict[str, Any]
    lines: list[str]


@pytest.fixture(scope="module")
def wide(data: Path, make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("wide")
    variants = {"all": {}, "little": {"set": {"ngrams.data.0.share": 0.05}}}
    path = write(folder, STUDY | {"variants": variants}, make_recipe("ngrams").model_dump(mode="json"))
    lines: list[str] = []
    return Done(path, folder / "out", ablate(path, data, folder / "out", report=lines.append), lines)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of runs that are trained from now on."""
    train, trained = classifier.train_classifier, []

    def noted(recipe: Recipe, data: Path, out: Path, **options: Any) -> dict[str, Any]:
        trained.append(f"{out.parent.name}/{out.name}")
        return train(recipe, data, out, **options)

    monkeypatch.setattr(classifier, "train_classifier", noted)
    return trained


def test_every_run_is_a_guard(wide: Done) -> None:
    runs = [("all", 1), ("all", 2), ("little", 1), ("little", 2)]
    told = [f"run {number} of 4: {name}, seed {seed}" for number, (name, seed) in enumerate(runs, 1)]
    assert [line for line in wide.lines if line.startswith("run ")] == told
    for name, seed in runs:
        folder = wide.out / name / f"seed-{seed}"
        assert load_guard(f"ngram:{folder / 'guard'}").judge([Conversation.from_pair("怎么泡好茶？")])[0].valid
        run = json.loads((folder / "train.json").read_text())
        assert wide.result["runs"][f"{name}, seed {seed}"] == run
        assert run["provenance"]["recipe"]["seed"] == seed
    taught = {name: run["examples"]["ngrams"]["libra-seed"]["safe"] for name, run in wide.result["runs"].items()}
    assert taught["little, seed 1"] == taught["little, seed 2"] < 0.1 * taught["all, seed 1"]


def test_the_numbers(wide: Done) -> None:
    assert json.loads((wide.out / "ablation.json").read_text()) == wide.result
    assert list(wide.result) == ["study", "shown", "results", "runs"]
    taught = {name: run["examples"]["ngrams"].values() for name, run in wide.result["runs"].items()}
    shown = {name: sum(sum(count.values()) for count in counts) for name, counts in taught.items()}
    assert wide.result["shown"] == {name: [shown[f"{name}, seed {s}"] for s in (1, 2)] for name in ("all", "little")}
    assert Study.model_validate(wide.result["study"]) == Study.read(wide.path)
    assert list(wide.result["results"]) == ["all", "little"]
    for name, systems in wide.result["results"].items():
        tests = [wide.result["runs"][f"{name}, seed {seed}"]["test"]["guard"] for seed in (1, 2)]
        assert list(systems) == ["guard"]
        assert list(systems["guard"]) == ["libra-seed (pair)", "smile (pair)"]
        for kind, found in systems["guard"].items():
            for metric, value in found.items():
                values = [test[kind][metric] for test in tests]
                assert value == {"mean": round(mean(values), 4), "sd": round(stdev(values), 4)}
    pairs, talk = wide.result["results"]["all"]["guard"].values()
    assert {"accuracy", "f1_unsafe", "auc", "over_refusal"} <= set(pairs)
    assert "over_refusal" in talk
    assert not {"auc", "n", "recall_unsafe", "intervals"} & set(talk)
    assert pairs["auc"]["mean"] > 0.9


def test_the_table(wide: Done) -> None:
    table = (wide.out / "ablation.md").read_text()
    assert table == markdown(wide.result) + "\n"
    head, rule, *rows = table.splitlines()
    sets = "libra-seed (pair): accuracy / f1_unsafe / auc | smile (pair): over_refusal"
    assert head == f"| variant | examples shown | part | {sets} |"
    assert rule == "|---|--:|---|--:|--:|"
    number = r"\d\.\d{3} ± \d\.\d{3}"
    for row, name in zip(rows, ("all", "little"), strict=True):
        assert re.fullmatch(rf"\| {name} \| \d+ \| guard \| {number} / {number} / {number} \| {number} \|", row)


def test_a_second_call_trains_nothing(wide: Done, data: Path, again: list[str]) -> None:
    names = ("ablation.json", "ablation.md", "ablation.svg")
    before = [(wide.out / name).read_bytes() for name in names]
    lines: list[str] = []
    assert ablate(wide.path, data, wide.out, report=lines.append) == wide.result
    assert again == []
    assert len(lines) == 4
    assert [(wide.out / name).read_bytes() for name in names] == before


def changed_data(path: Path, data: Path, out: Path) -> None:
    with (data / "smile.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": "新的一天", "response": "早上好。"}\n')


def changed_variant(path: Path, data: Path, out: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("0.05", "0.06"), encoding="utf-8")


def half_a_file(path: Path, data: Path, out: Path) -> None:
    (out / "all" / "seed-2" / "train.json").write_text('{"name": "to', encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        (changed_data, ["all/seed-1", "all/seed-2", "little/seed-1", "little/seed-2"]),
        (changed_variant, ["little/seed-1", "little/seed-2"]),
        (half_a_file, ["all/seed-2"]),
    ],
)
def test_what_has_changed_is_trained_again(
    wide: Done,
    data: Path,
    again: list[str],
    tmp_path: Path,
    change: Callable[[Path, Path, Path], None],
    trained: list[str],
) -> None:
    folder = Path(shutil.copytree(wide.path.parent, tmp_path / "copy"))
    sets = Path(shutil.copytree(data, tmp_path / "data"))
    change(folder / "study.yaml", sets, folder / "out")
    ablate(folder / "study.yaml", sets, folder / "out", report=lambda _: None)
    assert again == trained


def test_nothing_is_trained_where_the_plot_could_not_be_drawn(
    wide: Done, data: Path, tmp_path: Path, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(module, extra)

    monkeypatch.setattr(ablation, "require", missing)
    with pytest.raises(MissingExtraError, match=r"libra-guard\[train\]"):
        ablate(wide.path, data, tmp_path / "out", report=lambda _: None)
    assert again == []


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"set": {"ngrams.data.0.path": "typo.jsonl"}}, r"typo\.jsonl: no such file or folder"),
        ({"set": {"ngrams.data.0.set": "jade"}}, r"jade \(seed\.jsonl\): no sample for the train split"),
        ({"set": {"calibration.data": [{**SEED, "where": {"kind": "none"}}]}}, "no sample for the calibrate split"),
        ({"set": {"calibration.benign": [{**SMILE, "path": "typo.jsonl"}]}}, r"typo\.jsonl: no such file or folder"),
        ({"set": {"calibration.questions": [{**SMILE, "path": "typo.jsonl"}]}}, r"typo\.jsonl: no such file"),
        ({"without": ["libra-seed"], "set": {"calibration.data": [SMILE]}}, "ngrams: all .* are 安全; both labels are"),
    ],
)
def test_nothing_is_trained_where_the_data_of_a_later_variant_are_wrong(
    data: Path,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    again: list[str],
    variant: dict[str, Any],
    message: str,
) -> None:
    study = STUDY | {"variants": {"plain": {}, "odd": variant}}
    path = write(tmp_path, study, make_recipe("ngrams").model_dump(mode="json"))
    with pytest.raises(UsageError, match=rf"study\.yaml: variants\.odd: .*{message}"):
        ablate(path, data, tmp_path / "out", report=lambda _: None)
    assert again == []


def test_what_one_variant_learns_another_may_be_calibrated_on(
    data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path, again: list[str]
) -> None:
    recipe = make_recipe("ngrams", test=[SEED]).model_dump(mode="json")
    other = {"ngrams.data": [SEED], "calibration.benign": [{**SMILE, "whole": True}]}
    path = write(tmp_path, STUDY | {"seeds": [1], "variants": {"plain": {}, "other": {"set": other}}}, recipe)
    ablate(path, data, tmp_path / "out", report=lambda _: None)
    assert again == ["plain/seed-1", "other/seed-1"]


# A study of an encoder


def test_stages_that_runs_begin_with_are_trained_once(
    base: Path, data: Path, make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("encoder").model_dump(mode="json")
    recipe["encoder"]["base"] = "/nowhere"
    study = {
        "recipe": "toy.yaml",
        "seeds": [1],
        "seeded": "stages.second.seed",
        "variants": {"once": {"set": {"stages.second.epochs": 1}}, "twice": {"set": {"stages.second.epochs": 2}}},
    }
    path, out, sets = write(tmp_path, study, recipe), tmp_path / "out", Path(shutil.copytree(data, tmp_path / "data"))
    fitted: list[str] = []
    fit = EncoderTrainer.fit

    def noted(self: EncoderTrainer, stage: Any, examples: Any) -> None:
        fitted.append(stage.name)
        fit(self, stage, examples)

    monkeypatch.setattr(EncoderTrainer, "fit", noted)

    def stages() -> list[str]:
        """What was told of stages, run by run."""
        lines: list[str] = []
        ablate(path, sets, out, base=str(base), report=lines.append)
        return [re.sub(r"[0-9a-f]{12}$|\d+ examples", "…", line) for line in lines if line.startswith(("run", "stage"))]

    assert stages() == [
        "run 1 of 2: once, seed 1",
        "stage 'first': …, 1 epochs",
        "stage 'second': …, 1 epochs",
        "run 2 of 2: twice, seed 1",
        f"stage 'first': taken from {out / 'stages' / 'first-…'}",
        "stage 'second': …, 2 epochs",
    ]
    assert fitted == ["first", "second", "second"]
    assert sorted(folder.name.partition("-")[0] for folder in (out / "stages").iterdir()) == sorted(fitted)
    assert not list(out.glob("*/seed-1/stage-*"))
    table = (out / "ablation.md").read_text()
    assert [row.split(" | ")[0] for row in table.splitlines()[2:]] == ["| once", "| twice"]
    assert "±" not in table
    results = json.loads((out / "ablation.json").read_text())["results"]
    assert results["once"]["guard"]["smile (pair)"]["over_refusal"]["sd"] is None

    assert stages() == ["run 1 of 2: once, seed 1", "run 2 of 2: twice, seed 1"]
    assert fitted == ["first", "second", "second"]

    changed_data(path, sets, out)
    with (sets / "seed.jsonl").open("a", encoding="utf-8") as file:
        row = json.loads((sets / "seed.jsonl").read_text(encoding="utf-8").splitlines()[0])
        file.writelines(json.dumps(row | {"id": f"new-{i}", "question": f"新的问题{i}"}) + "\n" for i in range(9))
    assert [line for line in stages() if "taken" in line] == [f"stage 'first': taken from {out / 'stages' / 'first-…'}"]
    assert fitted == ["first", "second", "second"] * 2


# The table and the plot of given numbers


def number(value: float, sd: float | None = 0.0125) -> dict[str, float | None]:
    return {"mean": value, "sd": sd}


MIXED = {"accuracy": number(0.9), "f1_unsafe": number(0.85), "auc": number(0.9999), "over_refusal": number(0.1)}
SAFE = {"accuracy": number(0.98, None), "f1_unsafe": number(0.0, None), "over_refusal": number(0.02, None)}
UNSAFE = {"accuracy": number(0.75), "recall_unsafe": number(0.75)}


def test_the_table_shows_what_a_set_can_tell() -> None:
    sets = {"mixed (pair)": MIXED, "safe (pair)": SAFE, "unsafe (question)": UNSAFE}
    results = {"plain": {"guard": sets, "ngrams": sets}, "other": {"guard": sets}}
    table = markdown({"shown": {"plain": [1200, 1201, 1205], "other": [7]}, "results": results}).splitlines()
    cells = "0.900 ± 0.013 / 0.850 ± 0.013 / 1.000 ± 0.013 | 0.020 | 0.750 ± 0.013 |"
    assert table == [
        "| variant | examples shown | part | mixed (pair): accuracy / f1_unsafe / auc | safe (pair): over_refusal "
        "| unsafe (question): recall_unsafe |",
        "|---|--:|---|--:|--:|--:|",
        f"| plain | 1,202 | guard | {cells}",
        f"| plain | 1,202 | ngrams | {cells}",
        f"| other | 7 | guard | {cells}",
    ]


def test_a_metric_that_one_seed_lacks_is_left_out() -> None:
    """Precision is undefined in a run that flags nothing."""
    tests = [
        {"guard": {"safe (pair)": {"n": 9, "over_refusal": v, "precision_unsafe": p}}}
        for v, p in ((0.5, 0.0), (0.0, None))
    ]
    assert ablation._over_seeds(tests) == {"guard": {"safe (pair)": {"over_refusal": {"mean": 0.25, "sd": 0.3536}}}}


@pytest.mark.parametrize(
    ("sets", "panels"),
    [
        ({"mixed (pair)": MIXED, "safe (pair)": SAFE}, ["accuracy", "F1-unsafe", "AUC", "safe pairs flagged"]),
        ({"safe (pair)": SAFE}, ["accuracy", "safe pairs flagged"]),
        ({"unsafe (question)": UNSAFE}, ["accuracy"]),
    ],
)
def test_the_plot(tmp_path: Path, sets: dict[str, Any], panels: list[str]) -> None:
    results = {"plain": {"guard": sets}, "other": {"guard": sets}}
    for name in ("one.svg", "two.svg"):
        plot_ablation(tmp_path / name, results)
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "two.svg").read_text(encoding="utf-8")
    # Letters are drawn as paths; what they say stands beside them as comments.
    said = re.findall(r"<!-- (\S.*?)\s*(?:-->|\n)", drawn)
    assert [word for word in said if word in ("accuracy", "F1-unsafe", "AUC", "safe pairs flagged")] == panels
    assert {"plain", "other", *(name.split(" ")[0] for name in sets)} <= set(said)


# A generative guard's recipe


TAUGHT: dict[str, Any] = {
    "name": "toy",
    "model": {"base": "x"},
    "training": {"length": 256},
    "stages": [{"name": "first", "epochs": 3, "data": [SEED, SMILE]}, {"name": "second", "data": [SEED]}],
    "test": [SEED],
}


def test_a_stage_of_a_variant_still_inherits(tmp_path: Path) -> None:
    study = {"recipe": "toy.yaml", "seeds": [3], "variants": {"plain": {}, "alone": {"stages": ["second"]}}}
    made = recipes(tmp_path, study, TAUGHT)
    assert [(s.name, s.epochs, s.length) for s in made["plain", 3].resolved] == [("first", 3, 256), ("second", 3, 256)]
    # What it inherits in the whole recipe it keeps, or the variants would differ in more than their stages.
    assert [(s.name, s.epochs, s.length) for s in made["alone", 3].resolved] == [("second", 3, 256)]
    assert {recipe.seed for recipe in made.values()} == {3}


def test_settings_left_at_their_defaults_can_be_set(tmp_path: Path) -> None:
    study = STUDY | {"variants": {"none": {"set": {"teaching.critic": "none"}}}}
    assert recipes(tmp_path, study, TAUGHT)["none", 1].teaching.critic == "none"
    with pytest.raises(UsageError, match=r"variants\.none: (.*\n)*  teaching\.critics: there is no such key"):
        recipes(tmp_path, STUDY | {"variants": {"none": {"set": {"teaching.critics": "none"}}}}, TAUGHT)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"set": {"stages.second.data.0.path": "typo.jsonl"}}, r"typo\.jsonl: no such file or folder"),
        ({"set": {"stages.second.data": [SMILE]}}, "stage 'second': all .* samples are 安全; both labels are needed"),
        ({"set": {"calibration": {"data": [SMILE]}}}, "calibration: all .* samples are 安全; both labels are needed"),
    ],
)
def test_no_generative_guard_is_trained_where_the_data_of_a_later_variant_are_wrong(
    data: Path,
    make_generative: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(ablation, "_trainer", lambda _: pytest.fail("trained"))
    recipe = make_generative().model_dump(mode="json", exclude_unset=True)
    path = write(tmp_path, STUDY | {"variants": {"plain": {}, "odd": variant}}, recipe)
    with pytest.raises(UsageError, match=rf"study\.yaml: variants\.odd: .*{message}"):
        ablate(path, data, tmp_path / "out", report=lambda _: None)


def test_a_study_of_a_generative_guard(
    data: Path, make_generative: Callable[..., Any], causal_base: Path, tmp_path: Path
) -> None:
    recipe = make_generative(untrained=False, calibration=None).model_dump(mode="json", exclude_unset=True)
    recipe["model"]["base"] = "x"
    recipe["stages"] = [{**stage, "epochs": 1, "batch_size": 32} for stage in recipe["stages"]]
    variants = {"both": {}, "first": {"stages": ["first"]}, "bare": {"set": {"teaching.critic": "none"}}}
    variants["mixed"] = {"mixture": True}
    path = write(tmp_path, {"recipe": "toy.yaml", "seeds": [1], "variants": variants}, recipe)
    lines: list[str] = []
    result = ablate(path, data, tmp_path / "out", base=str(causal_base), report=lines.append)
    results = result["results"]
    assert list(results) == ["both", "first", "bare", "mixed"]
    assert result["shown"] == {"both": [408], "first": [204], "bare": [408], "mixed": [408]}
    assert sum("stage 'first': taken from" in line for line in lines) == 1
    assert all(0 <= found["guard"]["libra-seed"]["accuracy"]["mean"] <= 1 for found in results.values())
    lines.clear()
    ablate(path, data, tmp_path / "out", base=str(causal_base), report=lines.append)
    assert not any("training" in line for line in lines)
