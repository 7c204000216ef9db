"""Cards from what a run left: of other forms and versions, and of what is no run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from libra_guard.errors import UsageError
from libra_guard.train.card import rewrite_cards, write_cards
from libra_guard.train.provenance import hub_name, named_base
from libra_guard.train.recipe import Recipe

SEED = {"set": "libra-seed", "path": "seed.jsonl"}
METRICS: dict[str, Any] = {
    "n": 4,
    "accuracy": 0.75,
    "f1_safe": 0.8,
    "f1_unsafe": None,
    "auc": None,
    "over_refusal": 0.25,
    "intervals": {"accuracy": [0.25, 1.0]},
}
RESULT: dict[str, Any] = {
    "name": "toy",
    "threshold": 0.31,
    "question_threshold": 0.42,
    "test": {"guard": {"libra-seed (pair)": METRICS}},
    "parity": {"compared": 0.0, "longer": 4.0},
    "examples": {"stages": {}, "ngrams": {"libra-seed": {"safe": 1, "unsafe": 2}}, "calibration": {}, "test": {}},
    "provenance": {
        "recipe": {"name": "toy", "ngrams": {"data": [SEED]}, "calibration": {"data": [SEED]}},
        "data": {"seed.jsonl": "sha256:1"},
        "versions": {"numpy": "2"},
        "machine": "Linux",
    },
}


def run(folder: Path, **changes: Any) -> Path:
    """A run's folder, as one of an earlier version left it: without a form for the hub and without its command."""
    (folder / "guard").mkdir()
    (folder / "train.json").write_text(json.dumps(RESULT | changes), encoding="utf-8")
    return folder


def recipe(**changes: Any) -> dict[str, Any]:
    return RESULT["provenance"] | {"recipe": RESULT["provenance"]["recipe"] | changes}


def card(folder: Path, **changes: Any) -> str:
    (path,) = rewrite_cards(run(folder, **changes))
    return path.read_text(encoding="utf-8")


# What is no run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"train\.json: No such file or directory; name the --out folder of a finished training"),
        ("", r"train\.json: not JSON"),
        ("[]", r"train\.json: tells of no training"),
        ('{"provenance": {}}', r"train\.json: tells of no training"),
        (json.dumps(RESULT | {"provenance": recipe(colour=1)}), r"train\.json: not a training recipe:\n  colour"),
        (json.dumps(RESULT | {"provenance": recipe(model={})}), r"train\.json: not a training recipe for a generative"),
        (
            json.dumps({k: v for k, v in RESULT.items() if k != "examples"}),
            "a card needs more than it says: 'examples'",
        ),
        (json.dumps(RESULT | {"hub": {"form": "encoder", "pooling": "mean"}}), "hub: no such folder; a card stands"),
    ],
)
def test_what_is_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "guard").mkdir()
    if text is not None:
        (tmp_path / "train.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        rewrite_cards(tmp_path)
    assert not (tmp_path / "guard" / "README.md").exists()


def test_a_run_whose_guard_is_gone(tmp_path: Path) -> None:
    (run(tmp_path) / "guard").rmdir()
    with pytest.raises(UsageError, match="guard: no such folder; a card stands beside its model"):
        rewrite_cards(tmp_path)


# What a card says


def test_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "Threshold: 0.31; for questions judged by themselves 0.42." in text
    assert "| libra-seed (pair) | 4 | 0.75 (0.25–1.0) | 0.8 | – | – | 0.25 |" in text
    assert "a score for each of Libra's seven scenarios." in text
    assert "| seed.jsonl | `sha256:1` |" in text
    assert "```sh" not in text
    assert "\n\n\n" not in text
    assert text.endswith("```\n")
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert shown == RESULT["provenance"]["recipe"]


@pytest.mark.parametrize(
    ("trained", "tested", "told"),
    [
        ({}, {}, ["Questions are split by a hash"]),
        ({"whole": True}, {"whole": True}, ["Split before, and used with all their questions: `own.csv`, `test.csv`."]),
        (
            {},
            {"whole": True},
            [
                "Split before, and used with all their questions: `test.csv`.",
                "The other files' questions are split by a hash",
            ],
        ),
    ],
    ids=["by hash", "before", "both"],
)
def test_how_the_questions_were_split(
    tmp_path: Path, trained: dict[str, Any], tested: dict[str, Any], told: list[str]
) -> None:
    own, test = {"set": "samples", "path": "own.csv", **trained}, {"set": "samples", "path": "test.csv", **tested}
    parts = {"ngrams": {"data": [own]}, "calibration": {"data": [own]}, "test": [test]}
    text = card(tmp_path, provenance=recipe(**parts))
    _, _, lines = text.partition("Which licence these weights can be given")
    said = lines.partition("| part |")[0].strip().splitlines()[1:]
    assert [line.partition(" of the normalised")[0] for line in said] == told


def test_no_weakness_is_told_that_was_not_measured(tmp_path: Path) -> None:
    limits = card(tmp_path).partition("## Intended use and limits")[2].partition("## Provenance")[0]
    assert "Check it on texts of your own" in limits
    assert not [claim for claim in ("small", "weaker", "it misses") if claim in limits]


def test_the_command(tmp_path: Path) -> None:
    text = card(tmp_path, provenance=RESULT["provenance"] | {"command": "libra train classifier 'a b.yaml'"})
    assert "```sh\nlibra train classifier 'a b.yaml'\n```\n\nSeed 42;" in text


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ("libra-sub", "scores for 39 categories of `libra-sub`."),
        ("duoguard", "scores for 11 categories of `duoguard`."),
        ({"field": "kind", "names": ["茶事", "b"]}, "scores for: 茶事, b."),
    ],
)
def test_the_taxonomy(tmp_path: Path, outputs: Any, told: str) -> None:
    assert told in card(tmp_path, provenance=recipe(outputs=outputs))


@pytest.mark.parametrize(
    ("base", "named"),
    [("Qwen/Qwen2.5-0.5B", True), ("gpt2", True), ("/models/x", False), ("./x", False), ("a/b/c", False)],
)
def test_only_a_name_on_the_hub_is_told_to_the_hub(tmp_path: Path, base: str, named: bool) -> None:
    parts = {"encoder": {"base": base}, "stages": [{"name": "s", "data": [SEED]}]}
    header = yaml.safe_load(card(tmp_path, provenance=recipe(**parts)).split("---\n")[1])
    assert header.get("base_model") == (base if named else None)
    assert header["language"] == ["zh"]


@pytest.mark.parametrize("folder", ["/models/some/name", "name", "some/name"])
def test_a_folder_is_not_told_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder.lstrip("/")).mkdir(parents=True)
    used = str(tmp_path / folder.lstrip("/")) if folder.startswith("/") else folder
    assert (hub_name(used), named_base(used)) == (None, "name")
    parts = {"encoder": {"base": "owner/other"}, "stages": [{"name": "s", "data": [SEED]}]}
    text = card(tmp_path, provenance=recipe(**parts), base=named_base(used), base_model=hub_name(used))
    assert "base_model" not in yaml.safe_load(text.split("---\n")[1])
    assert "Its encoder is cut from `name`" in text


def test_the_way_to_a_folder_stays_out_of_the_card(tmp_path: Path) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    parts = {
        "encoder": {"base": str(tmp_path / "models" / "small")},
        "stages": [{"name": "s", "data": [SEED]}],
    }
    text = card(tmp_path, provenance=recipe(**parts))
    assert "base: small\n" in text
    assert str(tmp_path) not in text


def test_a_guard_without_a_base_gets_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--base owner/name: the guard in .* from no pretrained model"):
        rewrite_cards(run(tmp_path), base="owner/name")
    assert "owner/name" not in (tmp_path / "train.json").read_text(encoding="utf-8")


def test_data_sets_on_the_hub_are_named(tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir()
    fitted = Recipe.model_validate(
        RESULT["provenance"]["recipe"] | {"ngrams": {"data": [{**SEED, "set": "libra-test"}]}}
    )
    (path,) = write_cards(tmp_path, fitted, RESULT)
    header = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    assert header["datasets"] == ["caskcsg/Libra-Test"]
