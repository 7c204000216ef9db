from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from libra_guard.errors import UsageError
from libra_guard.records import Label, Sample
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES, SYSTEMS, UNMAPPED, forward
from libra_guard.train.outputs import Outputs, OwnOutputs

PRIVACY = {"category_name": "Privacy and Property", "sub_category_name": "Personal Data"}
OWN = OwnOutputs(field="kind", names=["fraud", "drugs"])


def sample(**fields: Any) -> Sample:
    return Sample(question="问", response="答", label=Label.UNSAFE, **fields)


def known(outputs: Outputs, found: tuple[float, ...]) -> dict[str, float]:
    """The targets that are known, by label."""
    return {name: x for name, x in zip(outputs.labels, found, strict=True) if not math.isnan(x)}


# What cannot be told apart


@pytest.mark.parametrize(
    "names", [[], ["fraud", "fraud"], ["unsafe"], [""]], ids=["none", "one twice", "the first output's", "empty"]
)
def test_names_that_make_no_outputs(names: list[str]) -> None:
    with pytest.raises(ValidationError):
        OwnOutputs(field="kind", names=names)


def test_no_such_system() -> None:
    with pytest.raises(UsageError, match="no category system 'duogard'; did you mean duoguard"):
        Outputs.of("duogard")


# What they are


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_output_of_a_system_can_be_taught(system: str) -> None:
    outputs = Outputs.of(system)
    assert outputs.labels == ("unsafe", *(c for c in SYSTEMS[system].codes if c not in UNMAPPED.get(system, {})))
    assert (outputs.system, outputs.field) == (
        system,
        "category_name" if system == "libra" else "sub_category_name",
    )


def test_names_of_ones_own() -> None:
    outputs = Outputs.of(OWN)
    assert (outputs.labels, outputs.system, outputs.field) == (("unsafe", "fraud", "drugs"), None, "kind")


# Targets


@pytest.mark.parametrize("wanted", [*SYSTEMS, OWN])
def test_a_safe_sample_has_no_category(wanted: str | OwnOutputs) -> None:
    outputs = Outputs.of(wanted)
    assert outputs.targets(sample(**PRIVACY, kind="fraud"), unsafe=False) == (0.0,) * len(outputs.labels)


def test_libra_reads_the_scenario_alone() -> None:
    outputs = Outputs.of("libra")
    wanted = (1.0, *(float(s.name == PRIVACY["category_name"]) for s in SCENARIOS))
    assert outputs.targets(sample(category_name=PRIVACY["category_name"]), unsafe=True) == wanted
    assert known(outputs, outputs.targets(sample(sub_category_name="Personal Data"), unsafe=True)) == {"unsafe": 1}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("fraud", {"unsafe": 1, "fraud": 1, "drugs": 0}),
        (["drugs"], {"unsafe": 1, "fraud": 0, "drugs": 1}),
        (["drugs", "fraud", "more"], {"unsafe": 1, "fraud": 1, "drugs": 1}),
        ("weapons", {"unsafe": 1}),
        ("", {"unsafe": 1}),
        ([], {"unsafe": 1}),
        (None, {"unsafe": 1}),
        (3, {"unsafe": 1}),
    ],
)
def test_a_field_of_ones_own(kind: Any, wanted: dict[str, float]) -> None:
    outputs = Outputs.of(OWN)
    assert known(outputs, outputs.targets(sample(kind=kind), unsafe=True)) == wanted


def test_a_sample_without_the_field() -> None:
    outputs = Outputs.of(OWN)
    assert known(outputs, outputs.targets(sample(), unsafe=True)) == {"unsafe": 1}


@pytest.mark.parametrize(
    ("system", "place", "ones", "unknown"),
    [
        ("libra-sub", PRIVACY, {"Personal Data"}, set()),
        # Of the scenario alone: one of its four, and none of the others.
        ("libra-sub", {**PRIVACY, "sub_category_name": ""}, set(), {s.name for s in SCENARIOS[2].sub_categories}),
        ("duoguard", PRIVACY, {"Privacy"}, set()),
        ("duoguard", {"sub_category_name": "Special Control"}, set(), {"Non-violent crimes", "Indiscriminate weapons"}),
        # A harm that the system has no name for is none of them.
        ("duoguard", {"sub_category_name": "Feudal Superstition"}, set(), set()),
        # All sub-categories of the scenario are tied to it, and to it alone.
        ("duoguard", {"category_name": "Bias and Discrimination"}, {"Hate"}, set()),
        ("llama-guard-3", {"sub_category_name": "Mental Health"}, {"S11"}, set()),
    ],
)
def test_a_system_through_sub_categories(system: str, place: dict[str, str], ones: set[str], unknown: set[str]) -> None:
    outputs = Outputs.of(system)
    found = known(outputs, outputs.targets(sample(**place), unsafe=True))
    assert {name for name, target in found.items() if target} == {"unsafe"} | ones
    assert set(outputs.labels) - set(found) == unknown


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "libra"])
def test_nothing_is_known_of_an_unknown_harm(system: str) -> None:
    outputs = Outputs.of(system)
    for place in ({}, {"category_name": "Weather", "sub_category_name": "Rain"}):
        assert known(outputs, outputs.targets(sample(**place), unsafe=True)) == {"unsafe": 1}


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "libra"])
def test_a_one_is_certain_and_a_zero_impossible(system: str) -> None:
    outputs = Outputs.of(system)
    for sub in SUB_CATEGORIES:
        found = known(outputs, outputs.targets(sample(sub_category_name=sub.name), unsafe=True))
        tied = forward(sub.name, system)
        for name, target in list(found.items())[1:]:
            assert target == (tied == (name,))
            assert bool(target) == (name in tied)
