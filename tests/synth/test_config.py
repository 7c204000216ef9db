"""Settings of a run: what comes with the package, and files that extended settings name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from libra_guard.configuration import ConfigFile
from libra_guard.errors import UsageError
from libra_guard.synth.adversarial.settings import AdversarialConfig
from libra_guard.synth.config import JudgeSettings, SynthConfig

ROOT = Path(__file__).parents[2]
NAMES = ("local-lm", "offline", "servers")


def unfiled(judge: JudgeSettings) -> JudgeSettings:
    """Without the files that it names, which lie elsewhere seen from another folder."""
    return judge.model_copy(update={"guard": "", "options": {}})


def test_all_settings_that_come_with_the_package_can_be_read_by_name_and_in_a_checkout() -> None:
    assert tuple(SynthConfig.bundled_names()) == NAMES
    for name in NAMES:
        file = ROOT / "configs" / "synth" / f"{name}.yaml"
        own, found = SynthConfig.read(name), SynthConfig.read(file)
        assert SynthConfig.find(name).parent != file.parent
        assert [unfiled(one) for one in own.seats.sitting.values()] == [
            unfiled(one) for one in found.seats.sitting.values()
        ]
        assert own.model_copy(update={"seats": found.seats}) == found


@pytest.mark.parametrize("beside", [SynthConfig.find("offline").parent, ROOT / "configs" / "synth"])
def test_the_files_that_they_name_are_there(beside: Path) -> None:
    seats = SynthConfig.read(beside / "offline.yaml").seats
    assert (beside / seats.judges[1].guard.removeprefix("words:")).is_file()
    (first, _) = SynthConfig.read(beside / "local-lm.yaml").seats.judges
    examples = json.loads((beside / first.options["examples"]).read_text(encoding="utf-8"))
    assert examples == json.loads((ROOT / "examples" / "libra-mini.json").read_text(encoding="utf-8"))[:2]


def written(path: Path, settings: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def unchecked(kind: type[ConfigFile], base: Any, tmp_path: Path) -> Any:
    """What a file says that extends one in another folder, with files beside it."""
    written(tmp_path / "base" / "base.yaml", base)
    for name in ("words.txt", "examples.json"):
        (tmp_path / "base" / name).touch()
    return kind.unchecked(written(tmp_path / "own" / "own.yaml", {"extends": "../base/base.yaml"}))


def test_files_of_judges_and_elements_are_those_beside_the_file_that_names_them(tmp_path: Path) -> None:
    options = {"examples": "examples.json", "critic": "rear", "few_shot": 2}
    judges = [{"guard": "words:words.txt"}, {"guard": "libra", "model": "m", "options": options}, {"guard": "mini"}]
    seats = {"judges": judges, "arbiter": {"guard": "ensemble:words.txt"}, "writer": "words.txt"}
    found = unchecked(SynthConfig, {"name": "words.txt", "seats": seats, "elements": {"extra": "."}}, tmp_path)
    assert found["seats"]["judges"] == [
        {"guard": "words:../base/words.txt"},
        {"guard": "libra", "model": "m", "options": options | {"examples": "../base/examples.json"}},
        {"guard": "mini"},
    ]
    assert found["seats"]["arbiter"] == {"guard": "ensemble:../base/words.txt"}
    assert os.path.normpath(found["elements"]["extra"]) == "../base"
    assert (found["name"], found["seats"]["writer"]) == ("words.txt", "words.txt")


def test_so_are_those_of_adversarial_rounds(tmp_path: Path) -> None:
    base = {"recipe": "words.txt", "seats": {"judges": [{"guard": "words:words.txt"}]}}
    found = unchecked(AdversarialConfig, base, tmp_path)
    assert found["recipe"] == "../base/words.txt"
    assert found["seats"]["judges"] == [{"guard": "words:../base/words.txt"}]


@pytest.mark.parametrize(
    "settings",
    [
        {"seats": None, "elements": 3},
        {"seats": {"judges": {"guard": "words:words.txt"}, "arbiter": None}, "elements": {"extra": None}},
        {"seats": {"judges": ["mini", {"guard": None, "options": []}]}, "recipe": 3},
    ],
)
@pytest.mark.parametrize("kind", [SynthConfig, AdversarialConfig])
def test_what_is_wrong_stays_for_the_check_to_tell(tmp_path: Path, kind: type[ConfigFile], settings: Any) -> None:
    assert unchecked(kind, settings, tmp_path) == settings


@pytest.mark.parametrize(
    ("judges", "arbiter", "told"),
    [
        (["qwen", "qwen"], None, r"seats\.judges\.1: 'libra:qwen' judges with what seats\.judges\.0 judges with, Q/7B"),
        (["qwen", "again"], None, r"seats\.judges\.1: 'libra:again' .*, Q/7B: their agreement would say nothing"),
        (["qwen", "gemma"], "gemma", r"seats\.arbiter: 'libra:gemma' .* seats\.judges\.1 .*it would decide for itself"),
        (["qwen", "gemma"], "again", r"seats\.arbiter: 'libra:again' .* seats\.judges\.0 judges with, Q/7B"),
        (["qwen", "libra:Q/7B"], None, r"seats\.judges\.1: 'libra:7B' judges with what seats\.judges\.0"),
        (["mini", "mini"], None, r"seats\.judges\.1: 'mini' .*, the guard mini: their"),
        (["mini", "gemma"], "mini", r"seats\.arbiter: 'mini' .*it would decide for itself"),
    ],
)
def test_nobody_votes_twice_nor_decides_on_his_own_vote(judges: list[str], arbiter: str | None, told: str) -> None:
    models = {"qwen": "Q/7B", "again": "Q/7B", "gemma": "G/9B"}

    def seat(name: str) -> dict[str, Any]:
        return {"guard": "libra", "model": name} if name in models else {"guard": name, "options": {"threshold": 0.7}}

    settings = {
        "name": "toy",
        "models": {name: {"backend": "scripted", "model": model} for name, model in models.items()},
        "seats": {"judges": [seat(name) for name in judges], "arbiter": seat(arbiter) if arbiter else None},
    }
    with pytest.raises(UsageError, match=told):
        SynthConfig.checked(settings, "test")
    if arbiter:
        # There is no third guard on a bare machine.
        assert SynthConfig.checked(settings | {"for_trying": True}, "test").offline
        settings["seats"]["arbiter"] = seat("words:w.txt")
        SynthConfig.checked(settings, "test")


def test_all_that_is_wrong_is_told_at_once_each_with_its_place() -> None:
    settings = {
        "name": "toy",
        "seats": {"judges": [{"guard": "mini"}, {"guard": "words:w.txt"}]},
        "queries": {"only": ["Gamblin"], "harmfull": 2},
        "augment": {"methods": ["roleplay"]},
    }
    with pytest.raises(UsageError) as caught:
        SynthConfig.checked(settings, "mine.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == "mine.yaml: not a configuration of the pipeline:"
    assert [line.split(":")[0].strip() for line in lines] == ["queries.only.0", "queries.harmfull", "augment.methods.0"]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("my-set", True),
        ("7b_v1.2", True),
        ("我的数据", True),
        ("", False),
        ("a/b", False),
        ("../a", False),
        (".a", False),
        ("_a", False),
        ("a b", False),
        ("a：b", False),
        ("a\n", False),
    ],
)
def test_a_name_is_fit_for_a_file(name: str, fits: bool) -> None:
    settings = {"name": name, "seats": {"judges": [{"guard": "mini"}, {"guard": "words:w.txt"}]}}
    if fits:
        assert SynthConfig.checked(settings, "test").name == name
        return
    with pytest.raises(UsageError, match=r"\n  name: write letters, digits, .* with a letter or a digit first$"):
        SynthConfig.checked(settings, "test")


@pytest.mark.parametrize(("count", "few"), [(1, True), (2, True), (3, False), (4, False)])
def test_fewer_than_three_responders_are_told(count: int, few: bool) -> None:
    models = {f"m{i}": {"backend": "scripted", "model": f"m{i}"} for i in range(count)}
    seats = {"responders": list(models), "judges": [{"guard": "mini"}, {"guard": "words:w.txt"}]}
    found = SynthConfig.model_validate({"name": "toy", "seats": seats, "models": models}).few_responders
    assert bool(found) == few
    assert not few or found.startswith(f"responders: {count}; a set to train on wants 3 or more")
