"""The file of a fitted cascade: whose guards it names, what is left to be filled in, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from libra_guard.errors import UsageError
from libra_guard.evaluate.cascade import CascadeGoal, Fit, Runs, fit
from libra_guard.evaluate.cascade_file import Written, cascade_file
from libra_guard.evaluate.predictions import Key, Labelled, Matched, Prediction
from libra_guard.evaluate.runs import Run
from libra_guard.predict.rows import Fields
from libra_guard.records import Label, Target

GUARDS: dict[str, dict[str, Any]] = {
    "fast": {"guard": "mini", "model_hash": "sha256:1", "device": "cpu"},
    "strong": {"guard": "libra", "model": "owner/name", "revision": "1"},
}
ASKED: dict[str, dict[str, Any]] = {
    "fast": {"guard": "mini", "backend": None, "options": {}},
    "strong": {"guard": "libra:owner/name", "backend": "transformers", "options": {"dtype": "bfloat16"}},
}
Make = Callable[..., Written]


def told(side: str, **more: Any) -> dict[str, Any]:
    return {"guard": GUARDS[side], "asked": ASKED[side]} | more


@pytest.fixture(scope="module")
def found() -> Fit:
    rows, partners = [], []
    for i in range(20):
        truth = Labelled(Key(str(i), None), "s", "c", i >= 10, i, f"问题{i}")
        label = Label.UNSAFE if i >= 10 else Label.SAFE
        rows.append(Matched(truth, Prediction(truth.key, label, i / 20)))
        partners.append(Matched(truth, Prediction(truth.key, label, None)))
    return fit(rows, partners, CascadeGoal(lose=0))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Fit) -> Make:
    """Makes the file of runs with these records; one of questions with ``target``."""
    monkeypatch.chdir(tmp_path)
    for name in ("fast.jsonl", "strong.jsonl", "rows.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")

    def written(*, target: Target = Target.RESPONSE, save: bool = False, **given: Any) -> Written:
        records = {side: given.pop(side, told(side)) for side in ("fast", "strong")}
        fields = replace(Fields(), target=target)
        sides = [Run(Path(f"{side}.jsonl"), {"run.json": record}, fields) for side, record in records.items()]
        runs = Runs(*sides, [], [], "rows.json", [])
        named = {side: given.pop(f"{side}_guard", None) for side in ("fast", "strong")}
        out = Path(given.pop("out", "cascade.yaml"))
        limits = found.model_copy(update={"limits": given.pop("limits", found.limits)})
        made = cascade_file(runs, limits, CascadeGoal(lose=0), out=out, **named, **given)
        if save:
            out.write_text(made.text, encoding="utf-8")
        return made

    return written


def read(made: Written) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(made.text)
    return settings


# Whose guards


def test_the_guards_are_those_that_the_runs_were_asked_for(make: Make) -> None:
    made = make()
    assert made.complaints == []
    settings = read(made)
    assert settings["fast"] == "mini"
    strong = {"guard": "libra:owner/name", "backend": "transformers", "options": {"dtype": "bfloat16"}}
    assert settings["strong"] == strong
    assert settings["fitted_on"] == GUARDS


@pytest.mark.parametrize(
    "record",
    [
        {},
        ["x"],
        {"asked": None},
        {"asked": {"guard": 5, "options": {}}},
        {"asked": {"guard": "mini"}},
        {"shards": ["x"]},
        {"shards": {"0-of-1": "x"}},
        # What was typed is no longer read.
        {"command": "libra infer --guard mini"},
    ],
)
def test_a_run_that_does_not_tell_its_guard(make: Make, record: Any) -> None:
    with pytest.raises(UsageError, match=r"fast\.jsonl: no run\.json here tells .*: name it with --fast-guard"):
        make(fast=record)


def test_a_guard_that_is_named_keeps_the_options_of_its_run(make: Make) -> None:
    made = make(strong_guard="libra:other/place")
    strong = {"guard": "libra:other/place", "backend": "transformers", "options": {"dtype": "bfloat16"}}
    assert (read(made)["strong"], made.complaints) == (strong, [])
    with pytest.raises(UsageError, match=r"strong\.jsonl: was made with the guard 'libra', not with 'policy'"):
        make(strong_guard="policy:owner/name")


def test_a_guard_that_is_named_for_a_run_that_tells_nothing(make: Make) -> None:
    made = make(strong={"guard": GUARDS["strong"]}, strong_guard="libra:owner/name")
    assert read(made)["strong"] == "libra:owner/name"
    assert made.complaints == ["strong: nothing tells its backend and options; fill in by hand what is not as usual"]
    made = make(strong={}, strong_guard="libra:owner/name")
    assert made.complaints[1:] == [
        "strong: no run.json tells its model, so it is not checked when the file is loaded",
    ]
    assert read(made)["fitted_on"] == {"fast": GUARDS["fast"]}


def test_secrets_are_told_and_not_written(make: Make) -> None:
    made = make(strong=told("strong", asked={**ASKED["strong"], "left_out": ["api_key"]}))
    assert made.complaints == ["strong: api_key: in no record; fill in by hand, or by the environment"]


def test_shards_whose_guards_differ_in_the_machine_alone(make: Make) -> None:
    shards = {
        f"{i}-of-2": {
            "guard": {**GUARDS["strong"], "device": f"cuda:{i}"},
            "asked": {**ASKED["strong"], "options": {"dtype": "bfloat16", "device": f"cuda:{i}"}},
        }
        for i in range(2)
    }
    made = make(strong={"data": "x", "shards": shards})
    assert read(made)["strong"]["options"] == {"dtype": "bfloat16"}
    assert made.complaints == ["strong: device: not the same in all shards; fill in by hand"]
    assert read(made)["fitted_on"]["strong"] == {**GUARDS["strong"], "device": "cuda:0"}
    with pytest.raises(UsageError, match="was made with the guard 'libra', not with 'policy'"):
        make(strong={"shards": shards}, strong_guard="policy:x")


def test_shards_that_were_asked_for_guards_in_other_places(make: Make) -> None:
    shards = {
        f"{i}-of-2": {"guard": GUARDS["strong"], "asked": {**ASKED["strong"], "guard": f"libra:/{i}"}} for i in range(2)
    }
    with pytest.raises(UsageError, match="libra:/0 in one shard, in another libra:/1: name it with --strong-guard"):
        make(strong={"shards": shards})
    assert read(make(strong={"shards": shards}, strong_guard="libra:/2"))["strong"]["guard"] == "libra:/2"


# Paths


def test_paths_lead_from_the_file_s_folder(make: Make, tmp_path: Path) -> None:
    for name in ("models/mine", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "scale.json").write_text("{}", encoding="utf-8")
    options = {"calibration": "scale.json", "threshold": 0.4}
    made = make(
        fast=told("fast", asked={"guard": "mini:models/mine", "backend": None, "options": options}), out="out/c.yaml"
    )
    assert read(made)["fast"] == {
        "guard": "mini:../models/mine",
        "options": {"calibration": "../scale.json", "threshold": 0.4},
    }


def test_a_model_that_is_not_here_is_not_written_as_if_it_were(make: Make, tmp_path: Path) -> None:
    asked = {"guard": "mini:models/mine", "backend": None, "options": {}}
    lost = r"there is no 'models/mine' here: run it where 'libra infer' ran, or name it with --fast-guard"
    with pytest.raises(UsageError, match=lost):
        make(fast=told("fast", asked=asked))
    (tmp_path / "elsewhere").mkdir()
    assert read(make(fast=told("fast", asked=asked), fast_guard="mini:elsewhere"))["fast"] == "mini:elsewhere"


@pytest.mark.parametrize(
    ("option", "guard"), [("adapter", {"adapter_hash": "sha256:2"}), ("calibration", {"calibration": {"sha256": "x"}})]
)
def test_an_adapter_or_a_calibration_that_is_not_here(make: Make, option: str, guard: dict[str, Any]) -> None:
    asked = {**ASKED["strong"], "options": {option: "mine"}}
    with pytest.raises(UsageError, match="there is no 'mine' here: run it where 'libra infer' ran"):
        make(strong=told("strong", guard=GUARDS["strong"] | guard, asked=asked))
    # Of a hub's adapter no hash is known: its name is one everywhere.
    assert read(make(strong=told("strong", asked=asked)))["strong"]["options"] == {option: "mine"}


# Limits of questions


def test_limits_of_questions_need_those_of_the_answers(make: Make) -> None:
    with pytest.raises(UsageError, match=r"cascade\.yaml: the questions were judged, .* fit those first"):
        make(target=Target.PROMPT)


def test_limits_of_questions_leave_the_rest_of_the_file_alone(make: Make, found: Fit, tmp_path: Path) -> None:
    made = make(save=True)
    by_hand = read(made) | {"fast": {"guard": "mini", "options": {"threads": 2}}}
    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump(by_hand), encoding="utf-8")
    other = found.limits.model_copy(update={"safe_below": 0.01})
    settings = read(make(target=Target.PROMPT, limits=other))
    assert settings.pop("prompt") == other.model_dump()
    assert settings.pop("provenance").keys() == {"response", "prompt"}
    del by_hand["provenance"]
    assert settings == by_hand
    with pytest.raises(UsageError, match="names the guards: leave out --fast-guard"):
        make(target=Target.PROMPT, fast_guard="mini")


def test_limits_of_other_guards_are_not_mixed(make: Make) -> None:
    make(save=True)
    retrained = told("fast", guard={**GUARDS["fast"], "model_hash": "sha256:9"})
    refused = r"cascade\.yaml is there, with limits of other guards: fast: .*model_hash: .*choose another --out"
    with pytest.raises(UsageError, match=refused):
        make(target=Target.PROMPT, fast=retrained)
    # Those of answers make a new file, as long as nothing in it is of the old guard.
    assert read(make(fast=retrained))["fitted_on"]["fast"]["model_hash"] == "sha256:9"
    make(target=Target.PROMPT, save=True)
    with pytest.raises(UsageError, match=refused):
        make(fast=retrained)


def test_limits_that_were_written_by_hand_are_those_of_the_guards_they_name(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "cascade.yaml"
    path.write_text("{fast: mini, strong: 'libra:x', safe_below: 0.1, unsafe_from: 0.9}", encoding="utf-8")
    settings = read(make(target=Target.PROMPT))
    assert (settings["strong"], settings["safe_below"], settings["fitted_on"]) == ("libra:x", 0.1, GUARDS)
    path.write_text("{fast: mini, strong: 'policy:x', safe_below: 0.1, unsafe_from: 0.9}", encoding="utf-8")
    with pytest.raises(UsageError, match="was made with the guard 'libra', not with 'policy': choose another --out"):
        make(target=Target.PROMPT)


def test_answers_that_are_fitted_again_keep_the_limits_of_the_questions(make: Make, found: Fit) -> None:
    make(save=True)
    make(target=Target.PROMPT, save=True)
    other = found.limits.model_copy(update={"safe_below": 0.01})
    settings = read(make(limits=other))
    assert (settings["safe_below"], settings["prompt"]) == (0.01, found.limits.model_dump())
    assert settings["provenance"].keys() == {"response", "prompt"}


def test_what_is_there_and_no_cascade_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    (tmp_path / "cascade.yaml").write_text("members: [mini, mini]", encoding="utf-8")
    with pytest.raises(UsageError, match="not a cascade file"):
        make()
