"""Files of guards: those that cannot be used, guards in them that cannot be had, and where their paths lead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard import Conversation, Label, Target, load_guard
from libra_guard.errors import UsageError
from libra_guard.guards.cascade import CascadeGuard
from libra_guard.guards.combined import CombinedGuard

Member = Callable[..., dict[str, Any]]
Combined = Callable[..., str]
LIMITS = {"safe_below": 0.2, "unsafe_from": 0.8}


@pytest.mark.parametrize(
    ("guard", "content", "message"),
    [
        ("cascade", "[", "not YAML"),
        ("cascade", "mini", "not a cascade file:\n  keys are needed, not a str"),
        ("cascade", "fast: mini\nstrong: mini\nsafe_below: 0.2", "unsafe_from: Field required"),
        ("cascade", "fast: mini\nstrong: mini\nsafe_below: 0.5\nunsafe_from: 0.5", "safe_below must be less than"),
        ("cascade", "fast: mini\nstrong: mini\nsafe_below: -1\nunsafe_from: 0.5", "greater than or equal to 0"),
        ("cascade", "fast: mini\nstrong: mini\nsafe_below: 0\nunsafe_from: .nan", "unsafe_from: Input should be"),
        (
            "cascade",
            "fast: mini\nstrong: mini\nsafe_below: 0.2\nunsafe_from: 0.5\nthreshold: 0.3",
            "threshold: there is no",
        ),
        ("cascade", "fast: 5\nstrong: mini\nsafe_below: 0.2\nunsafe_from: 0.5", "fast: Input should be"),
        (
            "cascade",
            "fast: {guard: mini, options: {backend: onnx}}\nstrong: mini\nsafe_below: 0.2\nunsafe_from: 0.5",
            "fast.options: 'backend' is no option",
        ),
        ("ensemble", "members: [mini]", "members: List should have at least 2 items"),
        ("ensemble", "members: [mini, {guard: mini, weight: 0}]", "members.1.weight: Input should be greater than 0"),
        ("ensemble", "members: [mini, {guard: mini, weight: .inf}]", "members.1.weight: Input should be a finite"),
        ("ensemble", "members: [mini, mini]\nrule: max", "rule: Input should be 'mean' or 'vote'"),
        ("ensemble", "members: [mini, mini]\nthreshold: 2", "threshold: Input should be less than or equal to 1"),
        ("ensemble", "members: [mini, minni]", "members.1: no guard is called 'minni'; .*did you mean 'mini'"),
        ("ensemble", "members: [mini, libra]", "members.1: 'libra' needs a model"),
        ("ensemble", "members: [mini, {guard: mini, options: {treads: 1}}]", "members.1: there is no option 'treads'"),
        ("ensemble", "members: [mini, {guard: mini, backend: openai}]", "members.1: 'mini' runs on onnx"),
        ("ensemble", "members: [mini, 'ngram:none']", "members.1: .*none: no model.onnx here"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, guard: str, content: str, message: str) -> None:
    path = tmp_path / "guards.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        load_guard(f"{guard}:{path}")
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: there is no such file"):
        load_guard(f"cascade:{tmp_path / 'none.yaml'}")
    with pytest.raises(UsageError, match="'ensemble' needs a model: ensemble:MODEL, where MODEL is a YAML file"):
        load_guard("ensemble")


def test_a_file_among_its_own_members(combined: Combined) -> None:
    for other in ("ensemble:b.yaml", "ensemble:./b.yaml"):
        cascade = combined("cascade", "a", fast="mini", strong=other, **LIMITS)
        combined("ensemble", "b", members=["mini", "cascade:a.yaml"])
        with pytest.raises(UsageError, match=r"is among its own members \(a\.yaml → b\.yaml → a\.yaml\)"):
            load_guard(cascade)


def test_a_file_may_stand_twice_beside_itself(member: Member, combined: Combined) -> None:
    combined("ensemble", "inner", members=[member("one", {"": 0.9}), member("two", {"": 0.7})])
    guard = load_guard(combined("ensemble", members=["ensemble:inner.yaml", "ensemble:inner.yaml"]))
    (verdict,) = guard.judge([Conversation.from_pair("问", "答")])
    assert (verdict.guard, verdict.unsafe_score) == ("ensemble", 0.8)


def test_paths_are_relative_to_the_file(
    tmp_path: Path, member: Member, combined: Combined, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules.txt").write_text("不得提及猫。", encoding="utf-8")
    (tmp_path / "words.txt").write_text("狗\n", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    asked = member("fast", {"不得提及猫": 0.9}, options={"policy": "rules.txt"})
    guard = load_guard(combined("ensemble", members=[asked, "words:words.txt"]))
    (verdict,) = guard.judge([Conversation.from_pair("问", "狗")])
    assert verdict.unsafe_score == 0.95


def test_a_text_that_is_no_path_stays_as_it_is(member: Member, combined: Combined) -> None:
    asked = member("fast", {"长" * 300: 0.9}, options={"policy": "长" * 300})
    guard = load_guard(combined("ensemble", members=[asked, asked]))
    assert guard.judge([Conversation.from_pair("问", "答")])[0].unsafe_score == 0.9


def test_what_is_beside_nothing_is_a_name_of_elsewhere(combined: Combined) -> None:
    local = {"base_url": "http://127.0.0.1:9/v1"}
    named = {"guard": "policy:owner/name", "backend": "openai", "options": local}
    guard = load_guard(combined("ensemble", members=["mini", named]))
    assert guard.provenance()["members"]["policy:owner/name"]["model"] == "owner/name"


def test_members_that_are_called_alike_are_numbered(member: Member, combined: Combined) -> None:
    one = member("one", {"": 0.9})
    guard = load_guard(combined("ensemble", members=[one, one | {"options": {"threshold": 0.1}}, "mini", one]))
    assert isinstance(guard, CombinedGuard)
    names = ["policy:one.json", "policy:one.json (2)", "mini", "policy:one.json (3)"]
    assert [m.name for m in guard.members] == names
    members = guard.provenance()["members"]
    assert [members[name]["threshold"] for name in names[:2]] == [0.5, 0.1]


def test_what_is_judged_is_what_any_member_judges(member: Member, combined: Combined) -> None:
    answers, both = member("one", {"": 0.9}, guard="libra"), member("two", {"": 0.9})
    assert load_guard(combined("ensemble", members=[answers, both])).targets == frozenset(Target)
    guard = load_guard(combined("ensemble", members=[answers, answers]))
    assert guard.targets == frozenset({Target.RESPONSE})
    with pytest.raises(UsageError, match="the guard 'ensemble' judges a response, not a prompt"):
        guard.judge([Conversation.from_pair("问")])
    with pytest.raises(TypeError, match="not a str"):
        guard.judge("问")  # type: ignore[arg-type]


def test_the_system_of_categories_is_told_where_it_is_one(member: Member, combined: Combined) -> None:
    mini = load_guard("mini")
    assert load_guard(combined("ensemble", members=["mini", "mini"])).system is mini.system
    assert load_guard(combined("ensemble", members=["mini", member("one", {"": 0.9})])).system is None
    # The next guard is not to remember it.
    assert CascadeGuard.system is None


def test_a_cascade_in_an_ensemble_in_a_cascade(member: Member, combined: Combined) -> None:
    fast = member("fast", {"毒": 0.9, "疑": 0.5, "": 0.1})
    combined("cascade", "inner", fast=fast, strong=member("strong", {"": 0.6}), **LIMITS)
    combined("ensemble", "middle", members=["cascade:inner.yaml", member("third", {"": 0.8})])
    guard = load_guard(combined("cascade", fast=fast, strong="ensemble:middle.yaml", **LIMITS))
    safe, unsafe, doubtful = guard.judge([Conversation.from_pair("问", text) for text in ("好", "毒", "疑")])
    assert (safe.label, unsafe.label, doubtful.label) == (Label.SAFE, Label.UNSAFE, Label.UNSAFE)
    assert doubtful.notes == (
        "cascade:inner.yaml: decided by policy:strong.json (0.600 of its own 0.500)",
        "decided by ensemble:middle.yaml (0.680 of its own 0.500)",
    )
    inner = guard.provenance()["members"]["ensemble:middle.yaml"]["members"]["cascade:inner.yaml"]
    assert inner["members"]["policy:strong.json"]["guard"] == "policy"


def test_no_conversations_no_verdicts(combined: Combined) -> None:
    assert load_guard(combined("ensemble", members=["mini", "mini"])).judge([]) == []
    assert load_guard(combined("cascade", fast="mini", strong="mini", **LIMITS)).judge([], explain=True) == []
