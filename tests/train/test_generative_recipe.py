from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from libra_guard.errors import UsageError
from libra_guard.guards.libra_prompt import Critic
from libra_guard.train.generative_recipe import GenerativeRecipe, Lora, Training

SEED = {"set": "libra-seed", "path": "seed.jsonl"}
MODEL = {"base": "x"}
STAGE = {"name": "one", "data": [SEED]}
GOOD: dict[str, Any] = {"name": "r", "model": MODEL, "stages": [STAGE]}
OWN = ("gemma-3-270m-cpu", "libra-guard", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b")


def read(tmp_path: Path, recipe: Any) -> GenerativeRecipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, allow_unicode=True), "utf-8")
    return GenerativeRecipe.read(path)


def staged(**settings: Any) -> dict[str, Any]:
    return GOOD | {"stages": [STAGE | settings]}


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ("", "it is empty"),
        ("[1, 2]", "keys are needed, not a list"),
        ({}, "name: "),
        ({k: v for k, v in GOOD.items() if k != "model"}, "model: "),
        ({k: v for k, v in GOOD.items() if k != "stages"}, "stages: "),
        (GOOD | {"stages": []}, "stages: "),
        (GOOD | {"encoder": MODEL}, "encoder: "),
        (GOOD | {"model": {}}, "model.base: "),
        (GOOD | {"model": MODEL | {"dtype": "float16"}}, "model.dtype: "),
        (GOOD | {"model": MODEL | {"quantised": True}}, "model.quantised: "),
        (GOOD | {"model": MODEL | {"lora": {"r": 8}}}, "model.lora.r: "),
        (GOOD | {"model": MODEL | {"lora": {"rank": 0}}}, "model.lora.rank: "),
        (GOOD | {"model": MODEL | {"lora": {"dropout": 1}}}, "model.lora.dropout: "),
        (GOOD | {"teaching": {"critic": "middle"}}, "teaching.critic: "),
        (GOOD | {"teaching": {"label_weight": 0}}, "teaching.label_weight: "),
        (GOOD | {"teaching": {"contradictions": "keep"}}, "teaching.contradictions: "),
        (GOOD | {"teaching": {"without_analysis": "drop"}}, "teaching.without_analysis: "),
        (GOOD | {"teaching": {"rule": True}}, "teaching.rule: "),
        (staged(data=[]), "stages.0.data: "),
        (staged(data=[SEED, {"set": "jade"}]), "stages.0.data.1.path: "),
        (staged(name="../up"), "stages.0.name: "),
        (staged(epochs=0), "stages.0.epochs: "),
        (staged(learning_rate=0), "stages.0.learning_rate: "),
        (staged(batch_size=0), "stages.0.batch_size: "),
        (staged(accumulation=0.5), "stages.0.accumulation: "),
        (staged(warmup=1), "stages.0.warmup: "),
        (staged(length=8), "stages.0.length: "),
        (staged(save_steps=0), "stages.0.save_steps: "),
        (staged(head_learning_rate=1e-3), "stages.0.head_learning_rate: "),
        (GOOD | {"calibration": {}}, "calibration.data: "),
        (GOOD | {"calibration": {"data": [SEED], "questions": [SEED]}}, "calibration.questions: "),
        (GOOD | {"calibration": {"data": [SEED], "false_positives": 0}}, "calibration.false_positives: "),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, recipe: Any, place: str) -> None:
    told = r"recipe\.yaml: not a training recipe for a generative guard:"
    with pytest.raises(UsageError, match=rf"{told}\n(.*\n)*  {re.escape(place)}"):
        read(tmp_path, recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (GOOD | {"stages": [STAGE, STAGE]}, "stages: two have the same name"),
        (GOOD | {"teaching": {"critic": "front"}}, "the front critic writes an analysis first"),
        (staged(data=[{**SEED, "reads": "question"}]), "seed.jsonl: .* judges pairs, so 'reads' cannot be 'question'"),
        (GOOD | {"test": [{**SEED, "reads": "answer"}]}, "'reads' cannot be 'answer'"),
        (staged(data=[{**SEED, "label": "不安全"}]), "seed.jsonl: 'label' is for questions"),
        (GOOD | {"calibration": {"data": [{**SEED, "label": "安全"}]}}, "'label' is for questions"),
        (GOOD | {"test": [{**SEED, "label": "安全"}]}, "'label' is for questions"),
        (staged(data=[{**SEED, "unseen": True}]), "'unseen' is for test sets alone"),
        (GOOD | {"calibration": {"data": [{**SEED, "unseen": True}]}}, "'unseen' is for test sets alone"),
        (GOOD | {"calibration": {"data": [SEED], "benign": [{**SEED, "unseen": True}]}}, "'unseen' is for test"),
        ("name: [1", "not YAML"),
    ],
)
def test_a_recipe_that_cannot_be_done(tmp_path: Path, recipe: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, recipe)


def test_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD | {"test": [{**SEED, "unseen": True}]})
    assert (recipe.model.lora, recipe.teaching.critic, recipe.calibration) == (Lora(), Critic.REAR, None)
    assert read(tmp_path, GOOD | {"model": MODEL | {"lora": None}}).model.lora is None
    front = read(tmp_path, GOOD | {"teaching": {"critic": "front", "without_analysis": "template"}})
    assert front.teaching.critic is Critic.FRONT


def test_all_that_is_fitted_on() -> None:
    sources = [{**SEED, "path": f"{name}.jsonl"} for name in "abcde"]
    a, b, c, d, e = sources
    stages = [{**STAGE, "data": [a]}, {**STAGE, "name": "two", "data": [b, c]}]
    recipe = GenerativeRecipe.model_validate(
        GOOD | {"stages": stages, "calibration": {"data": [d], "benign": [e]}, "test": [SEED]}
    )
    assert [source.path for source in recipe.fitted_on] == [source["path"] for source in sources]


# Stages inherit


@pytest.fixture
def curriculum() -> GenerativeRecipe:
    stages = [
        {**STAGE, "name": "first", "learning_rate": 1e-3, "batch_size": 4, "seed": 7},
        {**STAGE, "name": "second", "learning_rate": 5e-4, "epochs": 2},
        # What equals the default is set all the same.
        {**STAGE, "name": "third", "batch_size": 8, "data": [{**SEED, "path": "third.jsonl"}]},
    ]
    return GenerativeRecipe.model_validate(GOOD | {"stages": stages})


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("learning_rate", [1e-3, 5e-4, 5e-4]),
        ("batch_size", [4, 4, 8]),
        ("epochs", [1, 2, 2]),
        ("seed", [7, None, None]),
        ("length", [1024, 1024, 1024]),
        ("packing", [False, False, False]),
    ],
)
def test_a_stage_inherits_what_it_does_not_set(curriculum: GenerativeRecipe, setting: str, values: list[Any]) -> None:
    assert [getattr(stage, setting) for stage in curriculum.resolved] == values


def test_names_and_data_are_not_inherited(curriculum: GenerativeRecipe) -> None:
    assert [stage.name for stage in curriculum.resolved] == ["first", "second", "third"]
    assert [stage.data[0].path for stage in curriculum.resolved] == ["seed.jsonl", "seed.jsonl", "third.jsonl"]
    assert curriculum.stages[2].learning_rate == Training().learning_rate


@pytest.mark.parametrize(
    ("stage", "setting", "origin"),
    [
        ("first", "learning_rate", "its own"),
        ("first", "epochs", "default"),
        ("second", "learning_rate", "its own"),
        ("second", "batch_size", "from 'first'"),
        ("third", "learning_rate", "from 'second'"),
        ("third", "batch_size", "its own"),
        ("third", "seed", "default"),
        ("third", "warmup", "default"),
    ],
)
def test_where_a_setting_comes_from(curriculum: GenerativeRecipe, stage: str, setting: str, origin: str) -> None:
    assert curriculum.origin(stage, setting) == origin


@pytest.mark.parametrize(
    ("typed", "origins"),
    [
        ({"stages.second.learning_rate": 1e-5}, ["its own", "the command line", "from 'second'"]),
        ({"stages.first.learning_rate": 1e-5}, ["the command line", "its own", "from 'second'"]),
        ({"training.learning_rate": 1e-5}, ["its own", "its own", "from 'second'"]),
    ],
)
def test_what_the_command_line_sets_is_told_to_be_its(
    curriculum: GenerativeRecipe, typed: dict[str, Any], origins: list[str]
) -> None:
    changed = curriculum.changed(typed, "here")
    assert [changed.origin(stage.name, "learning_rate", typed) for stage in changed.stages] == origins


def test_what_the_command_line_sets_for_all_stages() -> None:
    typed = {"training.warmup": 0.5}
    changed = GenerativeRecipe.model_validate(GOOD).changed(typed, "here")
    assert changed.resolved[0].warmup == 0.5
    assert changed.origin("one", "warmup", typed) == "the command line"


# What is told of a recipe


def test_what_is_told_of_a_recipe_reads_back_as_the_same(curriculum: GenerativeRecipe) -> None:
    """Though the third stage's batch size is the default: without it, it would inherit that of the first."""
    for told in (curriculum.settings, curriculum.brief):
        again = GenerativeRecipe.model_validate(json.loads(json.dumps(told)))
        assert again.resolved == curriculum.resolved
        assert (again.settings, again.brief) == (curriculum.settings, curriculum.brief)


@pytest.mark.parametrize("seeds", [(None, 7, 7, None), (7, 7, None, 7), (7, None, 3, 7)])
def test_a_seed_that_is_told_goes_to_its_stage_alone(seeds: tuple[int | None, ...]) -> None:
    stages = [{**STAGE, "name": f"s{i}", **({"seed": seed} if seed else {})} for i, seed in enumerate(seeds[1:])]
    recipe = GenerativeRecipe.model_validate(GOOD | {"training": {"seed": seeds[0]}, "stages": stages})
    for told in (recipe.settings, recipe.brief):
        again = GenerativeRecipe.model_validate(told)
        assert [stage.seed for stage in again.resolved] == [seed or seeds[0] for seed in seeds[1:]]


def test_in_brief_a_stage_is_what_it_changes(curriculum: GenerativeRecipe) -> None:
    assert curriculum.brief["stages"] == [
        {"name": "first", "learning_rate": 1e-3, "batch_size": 4, "seed": 7, "data": [SEED]},
        {"name": "second", "epochs": 2.0, "learning_rate": 5e-4, "data": [SEED]},
        {"name": "third", "batch_size": 8, "data": [{**SEED, "path": "third.jsonl"}]},
    ]


@pytest.mark.parametrize("name", OWN)
def test_the_projects_own_recipes_are_recipes(name: str) -> None:
    recipe = GenerativeRecipe.read(Path(__file__).parents[2] / "configs" / "train" / f"{name}.yaml")
    assert recipe.fitted_on
