"""A guard's categories in OpenAI's names and as Libra's scenarios."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from libra_guard.serve.categories import OPENAI, Categories
from libra_guard.taxonomy import SCENARIOS, SYSTEMS, translate

CRIME, BIAS, PRIVACY, RUMORS, HATE, _, HEALTH = (scenario.name for scenario in SCENARIOS)


@pytest.mark.parametrize(
    ("system", "categories", "scores", "named"),
    [
        # One of fifteen kinds of crime is about minors: no question about theft is reported as one.
        ("libra", {CRIME: 0.9}, {"illicit": 0.72, "sexual/minors": 0.06, "violence": 0.06}, {"illicit"}),
        ("libra", {"Bias and Discrimination": 0.9}, {"hate": 0.9, "harassment": 0}, {"hate"}),
        ("libra", {"Hate Speech and Abuse": 0.9}, {"harassment": 0.6, "hate": 0.3}, {"harassment"}),
        ("libra", {"Rumors and Misinformation": 1.0}, {"illicit": 0}, set()),
        ("libra", {CRIME: 0.4}, {"illicit": 0.32}, set()),
        ("libra", {"违法犯罪": 0.9}, {"illicit": 0.72}, {"illicit"}),
        ("libra-sub", {"minor_related": 1.0}, {"sexual/minors": 1.0, "illicit": 1.0}, {"sexual/minors", "illicit"}),
        ("llama-guard-3", {"S4": 1.0}, {"sexual/minors": 1.0}, {"sexual/minors", "illicit"}),
        ("llama-guard-3", {"S14": 1.0, "unheard of": 1.0}, {}, set()),
        (None, {"my own": 1.0}, {}, set()),
    ],
)
def test_openai(system: str | None, categories: dict[str, float], scores: dict[str, float], named: set[str]) -> None:
    reader = Categories(None if system is None else SYSTEMS[system])
    found = reader.scores(categories)
    assert tuple(found) == OPENAI
    assert {code: found[code] for code in scores} == pytest.approx(scores)
    assert {code for code, meant in reader.named(categories).items() if meant} == named


def test_the_docs_tell_what_mini_can_report() -> None:
    reader = Categories(SYSTEMS["libra"])
    sure = {scenario.name: 1.0 for scenario in SCENARIOS}
    docs = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    for start, meant in (("| can be true", True), ("| never true", False)):
        (row,) = [line for line in docs.splitlines() if line.startswith(start)]
        told: dict[str, float] = {}
        for group, score in re.findall(r"((?:`[^`]+`(?:, )?)+) \(([\d.]+)\)", row):
            told |= dict.fromkeys(re.findall("`([^`]+)`", group), float(score))
        expected = {
            code: round(reader.scores(sure)[code], 2) for code, is_set in reader.named(sure).items() if is_set is meant
        }
        assert told == expected


@pytest.mark.parametrize(
    ("system", "categories", "scenarios", "named"),
    [
        # A guess: the scores are low, and the flag has a reason all the same.
        ("libra", {CRIME: 0.4}, [CRIME], {"illicit"}),
        ("libra", {HEALTH: 0.3}, [HEALTH], {"self-harm"}),
        ("libra", {PRIVACY: 0.9}, [PRIVACY], {"illicit"}),
        # The deny list names a scenario that the guard does not.
        ("libra", {CRIME: 0.01}, [HEALTH], {"self-harm"}),
        (None, {}, [HATE], {"harassment"}),
        # Of those tied to the scenario, the one with the highest score.
        ("libra", {HATE: 0.42, BIAS: 0.41}, [HATE], {"hate"}),
        # What is clear stands alone.
        ("libra", {CRIME: 0.9}, [HEALTH], {"illicit"}),
        # Nothing is tied to rumours.
        ("libra", {RUMORS: 0.9}, [RUMORS], set()),
        ("libra", {RUMORS: 0.9}, [RUMORS, HATE], {"harassment"}),
        ("libra", {CRIME: 0.4}, [], set()),
    ],
)
def test_the_scenario_of_the_decision_is_a_reason(
    system: str | None, categories: dict[str, float], scenarios: list[str], named: set[str]
) -> None:
    found = Categories(None if system is None else SYSTEMS[system]).named(categories, scenarios)
    assert tuple(found) == OPENAI
    assert {code for code, meant in found.items() if meant} == named


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "openai"])
def test_never_more_than_the_bound(system: str) -> None:
    reader = Categories(SYSTEMS[system])
    for code in SYSTEMS[system].codes:
        bound = translate({code: 1.0}, system, "openai")
        for name, score in reader.scores({code: 1.0}).items():
            assert 0 <= score <= bound.get(name, 0)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_scenarios_are_those_of_the_taxonomy(system: str) -> None:
    reader = Categories(SYSTEMS[system])
    for code in SYSTEMS[system].codes:
        expected = translate({code: 0.7}, system, "libra")
        assert {name: score for name, score in reader.scenarios({code: 0.7}).items() if score} == expected
