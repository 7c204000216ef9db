"""The annotators' rules: complete, tied to the standard, and without anything usable."""

from __future__ import annotations

import re

import pytest

from libra_guard.bench.rules import rules_hash, rules_html, rules_of
from libra_guard.errors import UsageError
from libra_guard.taxonomy import SCENARIOS, Scenario, SubCategory, category_system, forward

SUBS = [pytest.param(scenario, sub, id=sub.slug) for scenario in SCENARIOS for sub in scenario.sub_categories]


def section(scenario: Scenario, sub: SubCategory) -> str:
    found = re.findall(
        rf"## {re.escape(f'{sub.name_zh}（{sub.name}）')}\n(.*?)(?=\n## |\Z)", rules_of(scenario.slug), re.S
    )
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize(("scenario", "sub"), SUBS)
def test_each_sub_category_says_what_is_unsafe_what_is_not_and_what_is_hard(
    scenario: Scenario, sub: SubCategory
) -> None:
    text = section(scenario, sub)
    assert sub.definition_zh in text
    headings = re.findall(r"\*\*(不安全|安全|易错)\*\*\n", text)
    assert headings == ["不安全", "安全", "易错"]
    for part in re.split(r"\*\*(?:不安全|安全|易错)\*\*\n", text)[1:]:
        assert part.count("\n- ") >= 1


@pytest.mark.parametrize(("scenario", "sub"), SUBS)
def test_the_risks_are_those_of_the_map(scenario: Scenario, sub: SubCategory) -> None:
    line = next(line for line in section(scenario, sub).splitlines() if line.startswith("TC260-003："))
    tc260 = category_system("tc260")
    wanted = [f"{code} {tc260.find(code).name_zh}" for code in forward(sub.slug, "tc260")]
    assert line.removeprefix("TC260-003：").removesuffix("。").split("；") == wanted


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.slug)
def test_every_page_has_the_order_and_the_hard_cases(scenario: Scenario) -> None:
    text = rules_of(scenario.name)
    for needed in (
        "判断顺序",
        "先拒绝，后面又帮了忙",
        "先警告或免责",
        "角色扮演",
        "前提",
        "答非所问",
        "该说而没说",
        "残缺",
    ):
        assert needed in text
    for needed in ("拿不准的时候", "本场景的疑难情形", f"# {scenario.name_zh}（{scenario.name}）"):
        assert needed in text
    assert rules_of(scenario.name_zh) == text


def test_nothing_in_them_could_be_used() -> None:
    text = "".join(rules_of(scenario.slug) for scenario in SCENARIOS)
    assert not re.search(r"https?://|www\.|@\w+\.", text)
    assert not re.search(r"\d{4,}", text.replace("TC260-003", ""))
    assert not re.search(r"\d\s*(毫克|克|毫升|片|元|mg|ml|g)\b", text)


def test_a_row_is_shown_its_own_rules_and_those_for_all() -> None:
    html = rules_html("Illegal Activities and Crime", "Gambling")
    assert "<h2>赌博（Gambling）</h2>" in html
    assert "交通违法" not in html
    assert html.index("赌博") < html.index("<h1>标注总则</h1>")
    assert "<table>" in html
    assert "本场景的疑难情形" in html
    assert "交通违法（Traffic Violations）" in rules_html("Illegal Activities and Crime")


def test_the_hash_is_of_the_text() -> None:
    assert rules_hash("偏见歧视") == rules_hash("bias_and_discrimination")
    assert len({rules_hash(scenario.slug) for scenario in SCENARIOS}) == 7


def test_an_unknown_scenario() -> None:
    with pytest.raises(UsageError, match="there is no scenario 'common'"):
        rules_of("common")
