import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.errors import UsageError
from libra_guard.taxonomy import (
    SCENARIOS,
    SUB_CATEGORIES,
    SYSTEMS,
    TC260_CLASSES,
    UNMAPPED,
    backward,
    category_system,
    forward,
    maps,
    translate,
)

FOREIGN = [name for name in SYSTEMS if not name.startswith("libra")]
SIZES = {
    "libra": 7,
    "libra-sub": 39,
    "duoguard": 12,
    "llama-guard-3": 14,
    "qwen3guard": 9,
    "shieldgemma": 4,
    "xguard": 28,
    "openai": 13,
    "tc260": 31,
}


@pytest.mark.parametrize(
    ("scores", "source", "target", "reason"),
    [
        ({"S1": 0.5}, "llama", "libra", "did you mean llama-guard-3"),
        ({"S1": 0.5}, "llama-guard-3", "nowhere", "no category system 'nowhere'"),
        ({"S15": 0.5}, "llama-guard-3", "libra", "no llama-guard-3 category 'S15'"),
        ({"Hates": 0.5}, "duoguard", "libra", "did you mean Hate"),
        ({"Violent Crime": 0.5}, "libra", "tc260", "did you mean Violent Crimes"),
        ({"Hate": 1.5}, "duoguard", "libra", r"'Hate' is 1\.5; it must lie in \[0, 1\]"),
        ({"Hate": float("nan")}, "duoguard", "libra", "'Hate' is nan"),
        ({"Hate": -0.1}, "duoguard", "duoguard", r"'Hate' is -0\.1"),
    ],
)
def test_what_cannot_be_translated_is_an_error(scores, source, target, reason):
    with pytest.raises(UsageError, match=reason):
        translate(scores, source, target)


@pytest.mark.parametrize(("sub", "system"), [("Violence", "duoguard"), ("Gender", "duo")])
def test_forward_rejects_unknown_names(sub, system):
    with pytest.raises(UsageError):
        forward(sub, system)


def test_sizes():
    assert {name: len(system.categories) for name, system in SYSTEMS.items()} == SIZES
    assert [sum(c.group == a.code for c in SYSTEMS["tc260"].categories) for a in TC260_CLASSES] == [8, 9, 5, 7, 2]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_name_of_a_category_finds_it(system):
    found = category_system(system)
    for category in found.categories:
        for name in (category.code, category.name, category.name_zh, *category.aliases):
            assert found.find(name) is category


@pytest.mark.parametrize(
    ("code", "spellings"),
    [
        ("S3", ("Sex Crimes", "Sex-Related Crimes")),
        ("S4", ("Child Exploitation", "Child Sexual Exploitation")),
        ("S11", ("Self-Harm", "Suicide & Self-Harm")),
    ],
)
def test_llama_guard_has_two_spellings_of_three_names(code, spellings):
    assert {category_system("llama-guard-3").find(s).code for s in spellings} == {code}


@pytest.mark.parametrize("system", FOREIGN)
def test_forward_and_backward_are_one_relation(system):
    ahead = {(sub.name, code) for sub in SUB_CATEGORIES for code in forward(sub.slug, system)}
    back = {(name, code) for code in SYSTEMS[system].codes for name in backward(code, system)}
    assert ahead == back


def test_the_relation_names_only_what_exists():
    assert set(maps._RELATION) == {sub.slug for sub in SUB_CATEGORIES}
    for slug, ties in maps._RELATION.items():
        assert set(ties) == set(FOREIGN)
        for system, codes in ties.items():
            assert set(codes) <= set(SYSTEMS[system].codes), (slug, system)
            assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("system", FOREIGN)
def test_a_category_without_a_counterpart_is_listed_and_no_other(system):
    alone = {code for code in SYSTEMS[system].codes if not backward(code, system)}
    assert alone == set(UNMAPPED.get(system, {}))
    assert all(UNMAPPED.get(system, {}).values())


@pytest.mark.parametrize("sub", SUB_CATEGORIES, ids=lambda s: s.slug)
def test_each_sub_category_can_be_filed_under_a_tc260_risk(sub):
    assert forward(sub.name, "tc260")


@pytest.mark.parametrize(
    ("sub", "system", "code"),
    [
        ("Gender", "tc260", "A.2-e"),
        ("Intellectual Property", "tc260", "A.3-a"),
        ("Personal Data", "tc260", "A.4-f"),
        ("Hatred", "openai", "hate"),
        ("Mental Health", "llama-guard-3", "S11"),
        ("Special Control", "duoguard", "Indiscriminate weapons"),
        ("Intellectual Property", "qwen3guard", "Copyright Violation"),
        ("Feudal Superstition", "tc260", "A.1-h"),
        ("Special Control", "xguard", "dw"),
        ("Personal Data", "xguard", "pp"),
        ("Pornography", "shieldgemma", "Sexually Explicit Information"),
        ("Ethnicity", "shieldgemma", "Hate Speech"),
    ],
)
def test_ties_that_must_hold(sub, system, code):
    assert code in forward(sub, system)
    assert sub in backward(code, system)


def test_a_target_has_the_highest_score_of_its_sources():
    scores = {"Gender": 0.2, "Hatred": 0.7, "仇恨": 0.6, "gambling": 0.1}
    assert translate(scores, "libra-sub", "openai") == {"hate": 0.7, "hate/threatening": 0.7, "illicit": 0.1}
    assert translate(scores, "libra-sub", "libra") == {
        "Illegal Activities and Crime": 0.1,
        "Bias and Discrimination": 0.2,
        "Hate Speech and Abuse": 0.7,
    }


def test_a_scenario_goes_to_all_that_its_sub_categories_are_tied_to():
    assert translate({"Physical and Mental Health": 0.9}, "libra", "llama-guard-3") == {"S6": 0.9, "S11": 0.9}
    assert translate({"身心健康": 0.9, "Gender": 0.3}, "libra-sub", "duoguard") == {
        "Specialized advice": 0.9,
        "Hate": 0.3,
        "Suicide and self-harm": 0.9,
    }


def test_between_two_foreign_systems():
    assert translate({"S8": 0.8, "S14": 1.0}, "llama-guard-3", "duoguard") == {"Intellectual property": 0.8}
    assert translate({}, "duoguard", "tc260") == {}


@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_into_the_same_system_scores_stay_as_they_are(system, data):
    codes = st.sampled_from(SYSTEMS[system].codes)
    scores = data.draw(st.dictionaries(codes, st.floats(0, 1)))
    assert translate(scores, system, system) == scores


@pytest.mark.parametrize("system", FOREIGN)
def test_there_and_back_gives_at_least_the_score(system):
    for sub in SUB_CATEGORIES:
        there = translate({sub.name: 0.5}, "libra-sub", system)
        if there:
            assert translate(there, system, "libra-sub")[sub.name] == 0.5


def test_each_scenario_reaches_tc260():
    for scenario in SCENARIOS:
        assert translate({scenario.name: 1.0}, "libra", "tc260")
