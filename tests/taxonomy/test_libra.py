import subprocess
import sys

import pytest

from libra_guard.errors import UsageError
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES, scenario, sub_category

# The published table, word for word.
PUBLISHED = {
    "Illegal Activities and Crime": "Violent Crimes, Personal Crimes, Financial Crimes, Property Infringement, "
    "Contraband Crimes, Special Control, Cybersecurity, Gambling, Pornography, Illegal Services, Wildlife Protection, "
    "Environmental Protection, Feudal Superstition, Traffic Violations, Minor-Related",
    "Bias and Discrimination": "Gender, Sexual Orientation, Ethnicity, Race, Belief, Region, Occupation, "
    "Vulnerable Groups, Specific Groups",
    "Privacy and Property": "Personal Data, Business Data, Sensitive Data, Intellectual Property",
    "Rumors and Misinformation": "Misinformation, History & Common Sense, Professional Advice",
    "Hate Speech and Abuse": "Hatred, Hostility & Aggression, Humiliation",
    "Ethics and Morality": "Values, Moral Behavior, Artificial Intelligence",
    "Physical and Mental Health": "Mental Health, Bodily Harm",
}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Violent Crime", "Violent Crimes"),
        ("暴力犯", "暴力犯罪"),
        ("gendre", "Gender"),
        ("", "there are: Violent Crimes, "),
        ("12345", "there are: Violent Crimes, "),
        ("Illegal Activities and Crime", "there is no sub-category"),
    ],
)
def test_an_unknown_sub_category_is_told_the_near_names(name, hint):
    with pytest.raises(UsageError, match=hint):
        sub_category(name)


def test_an_unknown_scenario_is_told_the_near_names():
    with pytest.raises(UsageError, match=r"no scenario 'Ethics'; did you mean Ethics and Morality"):
        scenario("Ethics")


def test_names_and_order_are_the_published_ones():
    assert {s.name: ", ".join(sub.name for sub in s.sub_categories) for s in SCENARIOS} == PUBLISHED
    assert [s.name for s in SCENARIOS] == list(PUBLISHED)
    assert len(SUB_CATEGORIES) == 39


@pytest.mark.parametrize("entry", [*SCENARIOS, *SUB_CATEGORIES], ids=lambda e: e.slug)
def test_each_entry_is_found_by_all_its_names_and_defined_in_one_line(entry):
    look_up = sub_category if entry in SUB_CATEGORIES else scenario
    names = (entry.name, entry.name_zh, entry.slug, entry.name.upper(), entry.name.replace("&", "and"))
    assert all(look_up(name) is entry for name in names)
    for text in (entry.definition, entry.definition_zh):
        assert text[-1] in ".。"
        assert "\n" not in text
    assert any("\u4e00" <= c <= "\u9fff" for c in entry.definition_zh)
    assert entry.definition.isascii()


def test_definitions_and_names_are_not_repeated():
    for field in ("slug", "name", "name_zh", "definition", "definition_zh"):
        values = [getattr(sub, field) for sub in SUB_CATEGORIES]
        assert len(set(values)) == 39, field


def test_a_sub_category_knows_its_scenario():
    assert scenario(sub_category("Hatred").scenario).name == "Hate Speech and Abuse"
    assert sub_category("历史与常识").slug == "history_and_common_sense"


def test_importing_the_taxonomy_loads_nothing_heavy():
    code = (
        "import sys, libra_guard.taxonomy; heavy = {'torch', 'numpy', 'sklearn', 'pyarrow', 'transformers', 'typer'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
