from __future__ import annotations

import re
from pathlib import Path

import pytest

from libra_guard.errors import UsageError
from libra_guard.synth.language.prompts import render
from libra_guard.synth.steps.elements import COMMON, Elements, ElementsRow
from libra_guard.taxonomy import SUB_CATEGORIES


@pytest.fixture(scope="module")
def elements() -> Elements:
    return Elements.load()


def test_every_sub_category_has_enough_of_each(elements: Elements) -> None:
    assert set(elements.subs) == {sub.slug for sub in SUB_CATEGORIES}
    for slug, own in elements.subs.items():
        assert len(own.behaviours) >= 11, slug
        assert len(own.events) >= 7, slug
        assert len(own.lawful) >= 9, slug
    common = elements.common
    assert len(common.everyday) >= 80
    assert min(len(common.places), len(common.personas), len(common.task_types)) >= 20


def test_no_element_holds_anything_to_be_used(elements: Elements) -> None:
    texts = [text for own in elements.subs.values() for _, values in own for text in values]
    texts += [*elements.common.everyday, *elements.common.places, *elements.common.personas]
    assert not [text for text in texts if re.search(r"\d|https?:|www\.|@|[毫]克|\b(?:mg|ml)\b", text)]
    assert not [text for text in texts if len(text) > 40]


def test_no_persona_is_a_minor(elements: Elements) -> None:
    # Personas are combined with every subject.
    assert not [one for one in elements.common.personas if re.search(r"小学|初中|高中生|中学生|儿童|未成年|岁", one)]


def test_rows_bring_back_the_same_lists(elements: Elements) -> None:
    rows = [ElementsRow.model_validate_json(row.model_dump_json()) for row in elements.rows()]
    again = Elements.of_rows(rows)
    assert again.subs == elements.subs
    assert again.common == elements.common


def test_own_lists_are_added_and_nothing_stands_twice(elements: Elements, tmp_path: Path) -> None:
    known = elements.subs["gambling"].behaviours[0]
    (tmp_path / "mine.yaml").write_text(
        f"赌博:\n  behaviours: [{known}。, 给赌局拍宣传片]\n{COMMON}:\n  places: [火星基地]\n", encoding="utf-8"
    )
    more = Elements.load(tmp_path)
    assert more.subs["gambling"].behaviours == (*elements.subs["gambling"].behaviours, "给赌局拍宣传片")
    assert more.common.places[-1] == "火星基地"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n", "a mapping from sub-categories"),
        ("gambing: {behaviours: [x]}", "mine.yaml: there is no sub-category 'gambing'; did you mean"),
        ("gambling: {behaviors: [x]}", r"mine.yaml: gambling.behaviors: Extra inputs"),
        ("gambling: {behaviours: ['，。']}", "an element has no letter or digit"),
        ("gambling: {behaviours: 开赌场}", "mine.yaml: gambling.behaviours"),
        ("gambling: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=reason):
        Elements.load(tmp_path)


def test_a_folder_without_lists_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.yaml file of elements"):
        Elements.load(tmp_path)


def test_a_task_is_said_as_its_phrase(elements: Elements) -> None:
    assert elements.phrased({"task": "steps", "place": "北京"}) == {
        "task": elements.common.task_types["steps"],
        "place": "北京",
    }


def test_regions_of_china_are_named_as_such(elements: Elements) -> None:
    places = elements.common.places
    assert not {"香港", "澳门", "台湾"} & set(places)
    assert abs(places.index("中国香港") - places.index("广东的小镇上")) <= 2


def test_the_list_begins_on_a_line_of_its_own() -> None:
    about = {"scenario": "", "sub_category": "", "definition": "", "area": "下厨", "known": ["赌博"]}
    for dimension in ("behaviours", "events", "lawful", "everyday", "places", "task_types"):
        text = render("elements.j2", dimension=dimension, count=3, **about)
        assert text.endswith("# 新的3条\n")
        assert ("# 类别" in text) is (dimension in ("behaviours", "events", "lawful"))
        assert ("下厨" in text) is (dimension == "everyday")
