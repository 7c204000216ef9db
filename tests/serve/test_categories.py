"""A guard's categories in OpenAI's names and as Libra's scenarios."""

from __future__ import annotations

import pytest

from libra_guard.serve.categories import OPENAI, Categories
from libra_guard.taxonomy import SYSTEMS, translate

CRIME = "Illegal Activities and Crime"


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
