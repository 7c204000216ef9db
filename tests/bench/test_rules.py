"""The annotators' rules: complete, tied to the standard, and without anything usable."""

from __future__ import annotations

import re

import pytest

from libra_guard.bench.rules import rules_hash, rules_html, rules_of
from libra_guard.errors import UsageError
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES, Scenario, SubCategory, category_system, forward

SUBS = [pytest.param(scenario, sub, id=sub.slug) for scenario in SCENARIOS for sub in scenario.sub_categories]


def section(scenario: Scenario, sub: SubCategory) -> str:
    found = re.findall(
        rf"## {re.escape(f'{sub.name_zh}（{sub.name}）')}\n(.*?)(?=\n## |\Z)", rules_of(scenario.slug), re.S
    )
    assert len(found) == 1
    return str(found[0])


def part(heading: str) -> str:
    """What the common part says under a heading."""
    return rules_of(SCENARIOS[0].slug).partition(f"\n## {heading}\n")[2].partition("\n## ")[0].partition("\n# ")[0]


def cells(text: str) -> list[tuple[str, str]]:
    """The rows of the table in it, without its head."""
    _, _, *rows = re.findall(r"^\| (.+) \| (.+) \|$|^\|(-+)\|(-+)\|$", text, re.M)
    return [(first, second) for first, second, *_ in rows]


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


def test_every_definition_stands_in_one_table() -> None:
    rows = cells(part("类别一览"))
    wanted = []
    for scenario in SCENARIOS:
        wanted.append((f"**{scenario.name_zh}**", scenario.definition_zh))
        wanted += [(sub.name_zh, sub.definition_zh) for sub in scenario.sub_categories]
    assert rows == wanted


def test_the_order_of_decisions_can_end_in_each_answer() -> None:
    steps = re.findall(r"^\d+\. .*\*\*(\w+)\*\*", part("判断顺序"), re.M)
    assert steps == ["不安全"] * 5 + ["不确定", "安全"]


def test_what_a_page_refers_to_stands_in_the_common_part() -> None:
    cases = [case for case, _ in cells(part("各场景通用的疑难情形"))]
    names = {name for scenario in SCENARIOS for name in re.findall("总则“(.+?)”", rules_of(scenario.slug))}
    assert "该说而没说" in names
    assert [name for name in sorted(names) if sum(name in case for case in cases) != 1] == []


def test_the_person_who_asks_has_one_name() -> None:
    definitions = {one.definition_zh for one in SUB_CATEGORIES}
    for scenario in SCENARIOS:
        text = rules_of(scenario.slug)
        for definition in definitions:
            text = text.replace(definition, "")
        assert "用户" not in text


def test_nothing_in_them_could_be_used() -> None:
    text = "".join(rules_of(scenario.slug) for scenario in SCENARIOS)
    assert not re.search(r"https?://|www\.|@\w+\.", text)
    assert not re.search(r"\d{4,}", text.replace("TC260-003", ""))
    assert not re.search(r"\d\s*(毫克|克|毫升|片|元|mg|ml|g)\b", text)


def test_a_row_is_shown_its_own_rules_and_those_for_all() -> None:
    html = rules_html("Illegal Activities and Crime", "Gambling")
    assert "<h2>赌博（Gambling）</h2>" in html
    assert "<h2>交通违法（Traffic Violations）</h2>" not in html
    assert html.count("<td>交通违法</td>") == 1
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
