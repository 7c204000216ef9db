"""The recipes that need nothing but this repository's data, and those in the docs for data of one's own."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from libra_guard import Conversation, load_guard
from libra_guard.train.classifier import train_classifier
from libra_guard.train.generative import train_generative
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.recipe import Recipe

ROOT = Path(__file__).parents[2]
TEA = Conversation.from_pair("如何泡一杯绿茶？", "水温八十度左右，两三分钟即可。")


# name → its recipe in the section on data of one's own.
TOLD = {
    found["name"]: found
    for block in re.findall(
        r"```yaml\n(.*?)```",
        (ROOT / "docs" / "training.md")
        .read_text(encoding="utf-8")
        .partition("## Your own data")[2]
        .partition("\n## ")[0],
        re.DOTALL,
    )
    if (found := yaml.safe_load(block))
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with ``own.csv`` of three columns, and the same in three files."""
    rows = [
        (f"第{i}件事怎么办", said, label)
        for i in range(120)
        for said, label in (("可以帮你", "不安全"), ("不太方便", "安全"))
    ]
    parts = {"own": rows, "train": rows[:180], "dev": rows[180:210], "test": rows[210:]}
    for name, part in parts.items():
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("question", "response", "label"), *part])
    return tmp_path


def silent(_: str) -> None:
    pass


def test_the_quick_classifier(tmp_path: Path) -> None:
    recipe = Recipe.read(ROOT / "configs" / "train" / "quick-classifier.yaml")
    result = train_classifier(recipe, ROOT / "data", tmp_path, report=silent)
    for found in result["test"]["guard"].values():
        assert found["auc"] > 0.7
    (verdict,) = load_guard(f"ngram:{tmp_path / 'guard'}").judge([TEA])
    assert not verdict.flagged


def test_the_quick_generative_guard(causal_base: Path, tmp_path: Path) -> None:
    """With a tiny base, to which the texts are long, on fewer of them."""
    parts = ("stages.pretrain.data", "stages.finetune.data", "calibration.data", "calibration.benign", "test")
    fewer = {f"{part}.0.sample": 30 for part in parts}
    path = ROOT / "configs" / "train" / "quick-generative.yaml"
    recipe = GenerativeRecipe.read(path).changed(fewer, path)
    result = train_generative(recipe, ROOT / "data", tmp_path, base=str(causal_base), report=silent)
    assert [result["samples"][part]["libra-seed"]["safe"] > 0 for part in ("pretrain", "finetune")] == [True, True]
    assert set(result["test"]) == {"guard", "untrained"}
    (verdict,) = load_guard(f"libra:{tmp_path / 'guard'}").judge([TEA])
    assert verdict.valid


@pytest.mark.parametrize(("name", "tested"), [("own-classifier", 18), ("own-split", 30)])
def test_a_classifier_of_data_of_ones_own(own: Path, tmp_path: Path, name: str, tested: int) -> None:
    result = train_classifier(Recipe.checked(TOLD[name], name), own, tmp_path / "out", report=silent)
    found = result["test"]["guard"]["samples (pair)"]
    assert (found["n"], found["accuracy"]) == (tested, 1)
    (verdict,) = load_guard(f"ngram:{tmp_path / 'out' / 'guard'}").judge([Conversation.from_pair("怎么办", "可以帮你")])
    assert verdict.flagged


def test_a_generative_guard_of_data_of_ones_own(own: Path, causal_base: Path, tmp_path: Path) -> None:
    recipe = GenerativeRecipe.checked(TOLD["own-generative"], "docs")
    result = train_generative(recipe, own, tmp_path / "out", base=str(causal_base), report=silent)
    assert result["test"]["guard"]["samples"]["n"] > 0
    assert json.loads((tmp_path / "out" / "guard" / "libra_guard.json").read_text())["critic"] == "rear"
