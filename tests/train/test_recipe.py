from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from libra_guard.errors import UsageError
from libra_guard.records import Label
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.outputs import OwnOutputs
from libra_guard.train.recipe import Recipe, Source

SEED = {"set": "libra-seed", "path": "seed.jsonl"}
NGRAMS = {"data": [SEED]}
STAGE = {"name": "one", "data": [SEED]}
ENCODER = {"base": "x"}
CALIBRATION = {"data": [SEED]}
OWN = {"field": "kind", "names": ["a", "b"]}
GOOD: dict[str, Any] = {"name": "r", "ngrams": NGRAMS, "calibration": CALIBRATION}
DEEP = GOOD | {"encoder": ENCODER, "stages": [STAGE]}


def read(tmp_path: Path, recipe: Any) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, allow_unicode=True), "utf-8")
    return Recipe.read(path)


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ("", "it is empty"),
        ("[1, 2]", "keys are needed, not a list"),
        ("just words", "keys are needed, not a str"),
        ({}, "name: "),
        ({k: v for k, v in GOOD.items() if k != "calibration"}, "calibration: "),
        (GOOD | {"colour": 1}, "colour: "),
        (GOOD | {"seed": "many"}, "seed: "),
        (GOOD | {"dtype": "float8"}, "dtype: "),
        (GOOD | {"ngrams": {**NGRAMS, "widest": 3}}, "ngrams.widest: "),
        (GOOD | {"ngrams": {**NGRAMS, "longest": 5}}, "ngrams.longest: "),
        (GOOD | {"ngrams": {**NGRAMS, "buckets": 1000}}, "ngrams.buckets: "),
        (GOOD | {"ngrams": {"data": []}}, "ngrams.data: "),
        (GOOD | {"ngrams": {"data": [SEED, {"set": "jade"}]}}, "ngrams.data.1.path: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "reads": "title"}]}}, "ngrams.data.0.reads: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "label": "坏"}]}}, "ngrams.data.0.label: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "label": "有争议"}]}}, "ngrams.data.0.label: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "scenarios": ["Weather"]}]}}, "ngrams.data.0.scenarios: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "sample": 0}]}}, "ngrams.data.0.sample: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "share": 0}]}}, "ngrams.data.0.share: "),
        (GOOD | {"ngrams": {"data": [{**SEED, "share": 1.01}]}}, "ngrams.data.0.share: "),
        (GOOD | {"calibration": {**CALIBRATION, "false_positives": 0}}, "calibration.false_positives: "),
        (DEEP | {"encoder": {**ENCODER, "layers": []}}, "encoder.layers: "),
        (DEEP | {"encoder": {**ENCODER, "layers": [0, -1]}}, "encoder.layers.1: "),
        (DEEP | {"encoder": {**ENCODER, "max_length": 8}}, "encoder.max_length: "),
        (DEEP | {"encoder": {**ENCODER, "pooling": "max"}}, "encoder.pooling: "),
        (DEEP | {"encoder": {**ENCODER, "positive_weight": "heavy"}}, "encoder.positive_weight."),
        (DEEP | {"encoder": {**ENCODER, "positive_weight": 0}}, "encoder.positive_weight."),
        (DEEP | {"encoder": {**ENCODER, "positive_weight": {"unsafe": -1}}}, "encoder.positive_weight."),
        (DEEP | {"encoder": {**ENCODER, "positive_weight": float("inf")}}, "encoder.positive_weight."),
        (DEEP | {"encoder": {**ENCODER, "category_weight": -0.1}}, "encoder.category_weight: "),
        (GOOD | {"outputs": "duogard"}, "outputs: there is no category system 'duogard'; did you mean"),
        (GOOD | {"outputs": {"field": "kind"}}, "outputs.OwnOutputs.names: "),
        (GOOD | {"outputs": {"field": "kind", "names": ["a", "a"]}}, "outputs.OwnOutputs.names: "),
        (GOOD | {"outputs": {**OWN, "weights": 1}}, "outputs.OwnOutputs.weights: "),
        (DEEP | {"stages": [{**STAGE, "learning_rate": 0}]}, "stages.0.learning_rate: "),
        (DEEP | {"stages": [{**STAGE, "seed": "many"}]}, "stages.0.seed: "),
        (DEEP | {"stages": [{**STAGE, "name": "../up"}]}, "stages.0.name: "),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, recipe: Any, place: str) -> None:
    with pytest.raises(UsageError, match=rf"recipe\.yaml: not a training recipe:\n(.*\n)*  {re.escape(place)}"):
        read(tmp_path, recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({k: v for k, v in GOOD.items() if k != "ngrams"}, "nothing to train"),
        ({k: v for k, v in DEEP.items() if k != "stages"}, "an encoder needs stages"),
        ({k: v for k, v in DEEP.items() if k != "encoder"}, "stages an encoder"),
        (DEEP | {"stages": [STAGE, STAGE]}, "stages: two have the same name"),
        (DEEP | {"stages": [{**STAGE, "data": [{**SEED, "unseen": True}]}]}, r"stages\.one: 'unseen'"),
        (GOOD | {"ngrams": {"data": [{**SEED, "unseen": True}]}}, "ngrams: 'unseen'"),
        (GOOD | {"calibration": {"data": [{**SEED, "unseen": True}]}}, r"calibration\.data: 'unseen'"),
        (
            DEEP | {"outputs": OWN, "encoder": {**ENCODER, "positive_weight": {"a": 2, "c": 2}}},
            "positive_weight: no output is called c; there are unsafe, a, b",
        ),
        (DEEP | {"encoder": {**ENCODER, "positive_weight": {"a": 2}}}, "no output is called a; there are unsafe, Ill"),
        ("name: [1", "not YAML"),
        ("name: '\x07'", "not YAML"),
    ],
)
def test_a_recipe_that_cannot_be_done(tmp_path: Path, recipe: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, recipe)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: No such file"):
        Recipe.read(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        Recipe.read(tmp_path)
    (tmp_path / "gbk.yaml").write_bytes("name: 安全".encode("gb18030"))
    with pytest.raises(UsageError, match=r"gbk\.yaml: not YAML"):
        Recipe.read(tmp_path / "gbk.yaml")


def test_a_good_recipe(tmp_path: Path) -> None:
    recipe = read(tmp_path, DEEP | {"test": [{**SEED, "unseen": True, "label": "不安全"}]})
    assert (recipe.stages[0].epochs, recipe.stages[0].seed, recipe.stages[0].data[0].share) == (1, None, 1)
    assert recipe.test == [Source(set="libra-seed", path="seed.jsonl", unseen=True, label=Label.UNSAFE)]


@pytest.mark.parametrize("weight", [None, "balanced", 3, {"unsafe": 2, "a": 0.5}])
def test_a_taxonomy_and_weights_of_ones_own(tmp_path: Path, weight: Any) -> None:
    recipe = read(tmp_path, DEEP | {"outputs": OWN, "encoder": {**ENCODER, "positive_weight": weight}})
    assert recipe.outputs == OwnOutputs(**OWN)
    assert recipe.encoder
    assert recipe.encoder.positive_weight == weight
    assert read(tmp_path, recipe.model_dump(mode="json")) == recipe
    # A system goes by its own name, however it was written.
    assert read(tmp_path, GOOD | {"outputs": "Llama Guard 3"}).outputs == "llama-guard-3"


@pytest.mark.parametrize("name", ["mini", "ngram"])
def test_the_projects_own_recipes_are_recipes(name: str) -> None:
    recipe = Recipe.read(Path(__file__).parents[2] / "configs" / "train" / f"{name}.yaml")
    assert recipe.ngrams
    assert bool(recipe.encoder) == (name == "mini")


def test_finished_stages_of_older_recipes_keep_their_marks() -> None:
    """Which are hashes of what is shown of their sources."""
    assert "whole" not in repr(Source(set="jade", path="a.csv"))
    assert "name" not in repr(Source(set="jade", path="a.csv"))
    assert "whole=True" in repr(Source(set="jade", path="a.csv", whole=True))


def test_recipes_of_another_kind() -> None:
    own = {"name": "x", "calibration": {"data": []}}
    for key, other in (("model", "generative"), ("variants", "ablate"), ("seats", "adversarial")):
        with pytest.raises(UsageError, match=f"^here: this is a file for `libra train {other}`$"):
            Recipe.checked({**own, key: {}}, "here")
    for key in ("encoder", "ngrams"):
        with pytest.raises(UsageError, match=r"^here: this is a file for `libra train classifier`$"):
            GenerativeRecipe.checked({**own, key: {}}, "here")
