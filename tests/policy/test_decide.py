"""From verdicts to actions: what cannot be read, what other guards name, what is off, what may never become milder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard import Conversation, Label, Verdict
from libra_guard.policy import Action, Policy, decide, load_policy
from libra_guard.policy.decide import named_scenarios
from libra_guard.taxonomy import SCENARIOS, category_system

CRIME, BIAS, PRIVACY, RUMORS, HATE, ETHICS, HEALTH = (scenario.name for scenario in SCENARIOS)
ASKED = Conversation.from_pair("问题")
ANSWERED = Conversation.from_pair("问题", "回答")
UNREADABLE = Verdict(label=None, valid=False)
PASS, REVIEW, BLOCK = Action


def said(label: Label, score: float | None = None, **categories: float) -> Verdict:
    return Verdict(label=label, unsafe_score=score, categories=categories)


def unsafe(score: float | None = 0.9, **categories: float) -> Verdict:
    return said(Label.UNSAFE, score, **categories)


def policy(**said: Any) -> Policy:
    return Policy.model_validate({"name": "mine", **said})


def action(
    profile: Policy, verdict: Verdict, conversation: Conversation = ASKED, system: str | None = "libra"
) -> Action:
    return decide(profile, verdict, conversation, system=system and category_system(system)).action


def test_the_text_before_a_part_counts_for_the_deny_list_alone() -> None:
    profile = policy(deny={"phrases": ["前文问题"]}, allow={"texts": ["问题"]})
    assert decide(profile, unsafe(), ASKED).action is PASS
    assert decide(profile, unsafe(), ASKED, passage="上文。问题").action is PASS
    assert decide(profile, unsafe(), ASKED, passage="前文。问题").action is BLOCK


@pytest.mark.parametrize(
    ("profile", "verdict", "expected"),
    [
        ({}, UNREADABLE, BLOCK),
        ({"unreadable": "review"}, UNREADABLE, REVIEW),
        ({"unreadable": "pass"}, UNREADABLE, PASS),
        # What is off, and thresholds that nothing reaches, make nothing readable.
        ({"default": {"block": None}, "scenarios": {s.name: "off" for s in SCENARIOS}}, UNREADABLE, BLOCK),
        ({}, unsafe(), BLOCK),
        ({}, unsafe(0.1), BLOCK),
        ({}, said(Label.SAFE, 0.9), PASS),
        ({}, said(Label.CONTROVERSIAL, 0.5), REVIEW),
        ({"controversial": "block"}, said(Label.CONTROVERSIAL, 0.5), BLOCK),
        ({"controversial": "pass"}, said(Label.CONTROVERSIAL, 0.5), PASS),
        ({"controversial": "pass", "default": {"block": 0.5}}, said(Label.CONTROVERSIAL, 0.5), BLOCK),
        ({"default": {"block": 0.9}}, said(Label.CONTROVERSIAL, 0.5), REVIEW),
        ({"default": {"block": 0.5}}, said(Label.SAFE, 0.5), BLOCK),
        ({"default": {"block": 0.5}}, unsafe(0.4999), PASS),
        ({"default": {"block": 0.5, "review": 0.3}}, unsafe(0.4999), REVIEW),
        ({"default": {"block": 0.5, "review": 0.3}}, unsafe(0.29), PASS),
        ({"default": {"block": ["guard", 0.5]}}, unsafe(0.1), BLOCK),
        ({"default": {"block": [0.5, "guard"]}}, said(Label.SAFE, 0.5), BLOCK),
        ({"default": {"block": ["guard", 0.5]}}, said(Label.SAFE, 0.49), PASS),
        ({"default": {"block": None}}, unsafe(1.0), PASS),
        ({"default": {"block": None, "review": "guard"}}, unsafe(1.0), REVIEW),
        ({"default": {"block": 1}}, unsafe(1.0), BLOCK),
        ({"default": {"block": 0}}, said(Label.SAFE, 0.0), BLOCK),
        # A guard without scores: its label stands for one.
        ({"default": {"block": 1}}, unsafe(None), BLOCK),
        ({"default": {"block": 0.01}}, said(Label.SAFE), PASS),
        ({"controversial": "pass", "default": {"block": 0.6, "review": 0.5}}, said(Label.CONTROVERSIAL), REVIEW),
    ],
)
def test_labels_and_thresholds(profile: dict[str, Any], verdict: Verdict, expected: Action) -> None:
    assert action(policy(**profile), verdict) is expected


def test_a_score_that_is_no_number_is_not_a_low_one() -> None:
    verdict = Verdict.model_construct(label=Label.SAFE, unsafe_score=float("nan"), categories={}, valid=True)
    assert action(policy(default={"block": 0.9}), verdict) is BLOCK


@pytest.mark.parametrize(
    ("scenarios", "categories", "expected"),
    [
        ({BIAS: "off"}, {BIAS: 0.9}, PASS),
        ({BIAS: "off"}, {BIAS: 0.5}, PASS),
        # Below 0.5 it is a guess, which makes nothing milder.
        ({BIAS: "off"}, {BIAS: 0.49}, BLOCK),
        ({BIAS: {"block": 0.95}}, {BIAS: 0.49}, BLOCK),
        ({BIAS: {"block": 0.95}}, {BIAS: 0.5}, PASS),
        ({BIAS: "off"}, {BIAS: 0.9, HATE: 0.5}, BLOCK),
        ({BIAS: "off"}, {BIAS: 0.9, HATE: 0.49}, PASS),
        ({BIAS: "off", HATE: "off"}, {BIAS: 0.9, HATE: 0.5}, PASS),
        ({BIAS: "off"}, {}, BLOCK),
        ({BIAS: "off"}, {BIAS: 0.0}, BLOCK),
        ({BIAS: {"block": 0.95}, HATE: {"block": 0.8}}, {BIAS: 0.9, HATE: 0.6}, BLOCK),
        ({BIAS: {"block": None, "review": "guard"}}, {BIAS: 0.9}, REVIEW),
        ({BIAS: {"block": None, "review": "guard"}, HATE: "off"}, {BIAS: 0.6, HATE: 0.9}, REVIEW),
        # A score that is none, or a category that nobody knows, must not let a text pass.
        ({BIAS: "off"}, {BIAS: 0.9, HATE: 7.0}, BLOCK),
        ({BIAS: "off"}, {BIAS: 0.9, HATE: float("nan")}, BLOCK),
        ({BIAS: "off"}, {BIAS: 0.9, "unheard of": 0.6}, BLOCK),
        ({BIAS: "off"}, {BIAS: 0.9, "unheard of": 0.4}, PASS),
    ],
)
def test_scenarios(scenarios: dict[str, Any], categories: dict[str, float], expected: Action) -> None:
    assert action(policy(scenarios=scenarios), unsafe(0.9, **categories)) is expected


def test_a_scenario_can_be_stricter_than_the_guard_also_on_a_guess() -> None:
    profile = policy(scenarios={HEALTH: {"block": 0.2}})
    verdict = said(Label.SAFE, 0.25, **{HEALTH: 0.3, BIAS: 0.1})
    decision = decide(profile, verdict, ASKED, system=category_system("libra"))
    assert (decision.action, decision.scenarios, decision.guessed) == (BLOCK, (HEALTH,), True)


@pytest.mark.parametrize(
    ("categories", "likely"),
    [
        ({CRIME: 0.486, PRIVACY: 0.009}, True),
        ({CRIME: 0.3}, True),
        ({CRIME: 0.29}, False),
        ({CRIME: 0.45, PRIVACY: 0.15}, True),
        ({CRIME: 0.44, PRIVACY: 0.15}, False),
        # Who may be in distress is told where help is.
        ({CRIME: 0.45, HEALTH: 0.1}, False),
        ({CRIME: 0.45, HEALTH: 0.09}, True),
        ({HEALTH: 0.4, CRIME: 0.05}, True),
        # Of what nobody knows there is no answer; and what is sure is no guess.
        ({"unheard of": 0.45}, False),
        ({CRIME: 0.9}, False),
    ],
)
def test_a_guess_that_is_clear_chooses_the_answer(categories: dict[str, float], likely: bool) -> None:
    assert decide(policy(), unsafe(**categories), ASKED, system=category_system("libra")).likely is likely


@pytest.mark.parametrize(
    ("system", "off", "categories", "expected"),
    [
        ("openai", [HEALTH], {"self-harm": 0.9}, PASS),
        ("openai", [BIAS], {"hate": 0.9}, BLOCK),
        ("openai", [BIAS, HATE], {"hate": 0.9}, PASS),
        ("llama-guard-3", [PRIVACY], {"S7": 1.0}, PASS),
        ("llama-guard-3", [PRIVACY], {"S7": 1.0, "S14": 1.0}, BLOCK),
        ("qwen3guard", [PRIVACY], {"PII": 1.0, "Jailbreak": 1.0}, BLOCK),
        ("openai", [HEALTH], {"self-harm": 0.9, "sabotage": 0.9}, BLOCK),
        (None, [HEALTH], {"身心健康": 1.0}, PASS),
        (None, [HEALTH], {"Mental Health": 1.0}, PASS),
        (None, [HEALTH], {"广告": 1.0}, BLOCK),
        (None, [HEALTH], {"mini: Physical and Mental Health": 1.0}, BLOCK),
    ],
)
def test_guards_of_other_systems(
    system: str | None, off: list[str], categories: dict[str, float], expected: Action
) -> None:
    assert action(policy(scenarios=dict.fromkeys(off, "off")), unsafe(**categories), system=system) is expected


def test_what_a_verdict_names() -> None:
    verdict = unsafe(**{BIAS: 0.5, HATE: 0.9, CRIME: 0.4})
    libra = category_system("libra")
    assert named_scenarios(verdict, libra) == [(HATE, 0.9), (BIAS, 0.5)]
    assert named_scenarios(unsafe(**{BIAS: 0.2, HATE: 0.3, CRIME: 0.3}), libra) == [(HATE, 0.3), (CRIME, 0.3)]
    assert named_scenarios(unsafe(), libra) == named_scenarios(unsafe(**{BIAS: 0.0}), libra) == []
    assert named_scenarios(unsafe(S14=0.9, S7=0.6), category_system("llama-guard-3")) == [(None, 0.9), (PRIVACY, 0.6)]


def test_the_scenarios_that_speak_against_a_text_the_worst_first() -> None:
    profile = policy(scenarios={HATE: {"block": None, "review": 0.5}, ETHICS: {"block": 0.95}, RUMORS: "off"})
    verdict = unsafe(0.9, **{RUMORS: 1.0, HATE: 0.9, CRIME: 0.6, BIAS: 0.7, ETHICS: 0.8})
    decision = decide(profile, verdict, ASKED, system=category_system("libra"))
    assert decision.scenarios == (BIAS, CRIME, HATE)
    assert not decision.guessed
    assert decide(profile, said(Label.SAFE, 0.1, **{BIAS: 0.9}), ASKED).scenarios == ()


def test_targets_have_rules_of_their_own() -> None:
    profile = policy(default={"block": 0.8, "review": 0.6}, prompt={"review": 0.2}, response={"block": 0.5})
    verdict = said(Label.SAFE, 0.55)
    assert (action(profile, verdict, ASKED), action(profile, verdict, ANSWERED)) == (REVIEW, BLOCK)
    milder = policy(response={"block": 0.5}, scenarios={BIAS: {"block": 0.8}})
    assert action(milder, said(Label.SAFE, 0.55, **{BIAS: 0.9}), ANSWERED) is PASS


def test_lists_go_before_the_guard_and_deny_before_allow() -> None:
    profile = policy(deny={"phrases": ["枪支"], "patterns": ["买.{0,3}弹"]}, allow={"texts": ["你好", "枪支！"]})
    safe = said(Label.SAFE, 0.0)

    def listed(text: str, verdict: Verdict) -> tuple[Action, str | None]:
        decision = decide(profile, verdict, Conversation.from_pair(text))
        return decision.action, decision.listed

    assert listed("买 枪-支", safe) == (BLOCK, "deny: phrase 1")
    assert listed("买点儿子弹", safe) == (BLOCK, "deny: pattern 1")
    assert listed("枪支！", safe) == (BLOCK, "deny: phrase 1")
    assert listed("你好", unsafe()) == listed("你好", UNREADABLE) == (PASS, "allow: text 1")
    assert listed("你好，在吗", unsafe()) == (BLOCK, None)


def test_what_is_looked_up_is_the_last_message() -> None:
    profile = policy(deny={"phrases": ["枪支"]})
    assert action(profile, said(Label.SAFE, 0.0), Conversation.from_pair("枪支", "不行")) is PASS
    assert action(profile, said(Label.SAFE, 0.0), Conversation.from_pair("什么", "枪支")) is BLOCK


def test_a_decision_says_why_and_never_what_was_said() -> None:
    profile = policy(deny={"phrases": ["暗语甲乙"]}, allow={"texts": ["一段被放行的话"]}, scenarios={BIAS: "off"})
    cases = {
        "暗语甲乙": ("deny list", unsafe()),
        "一段被放行的话": ("allow list", unsafe()),
        "读不出的话": ("could not be read", UNREADABLE),
        "有害的话": ("the guard says 不安全, unsafe score 0.900", unsafe()),
        "没有分数的话": ("the guard says 不安全, no score", unsafe(None)),
        "关掉的话": ("switched off", unsafe(**{BIAS: 0.9})),
    }
    for text, (reason, verdict) in cases.items():
        decision = decide(profile, verdict, Conversation.from_pair(text))
        assert reason in decision.reason
        assert text not in decision.model_dump_json()
        assert (decision.policy, decision.mode) == ("mine", "enforce")
    assert "off" not in decide(profile, said(Label.SAFE, 0.1, **{BIAS: 0.9}), ASKED).reason


BUNDLED = [load_policy(name) for name in ("strict", "default", "monitor")]
THRESHOLDS = st.one_of(
    st.none(), st.just("guard"), st.floats(0, 1), st.tuples(st.just("guard"), st.floats(0, 1)).map(list)
)
RULES = st.fixed_dictionaries({}, optional={"block": THRESHOLDS, "review": THRESHOLDS})
NAMES = [s.name for s in SCENARIOS]
PROFILES = st.fixed_dictionaries(
    {"name": st.just("any")},
    optional={
        "default": RULES,
        "prompt": RULES,
        "response": RULES,
        "scenarios": st.dictionaries(st.sampled_from(NAMES), st.one_of(st.just("off"), RULES)),
        "unreadable": st.sampled_from(list(Action)),
        "controversial": st.sampled_from(list(Action)),
        "deny": st.just({"phrases": ["问题"]}),
        "allow": st.just({"texts": ["回答"]}),
    },
)
VERDICTS = st.one_of(
    st.just(UNREADABLE),
    st.builds(
        Verdict,
        label=st.sampled_from(Label),
        unsafe_score=st.none() | st.floats(0, 1),
        categories=st.dictionaries(st.sampled_from([*NAMES, "unknown"]), st.floats(0, 1), max_size=4),
    ),
)
CONVERSATIONS = st.sampled_from([ASKED, ANSWERED, Conversation.from_pair("别的")])


def made(said: dict[str, Any]) -> Policy | None:
    try:
        return policy(**said)
    except ValueError:  # review above block
        return None


@settings(deadline=None)
@given(PROFILES, VERDICTS, CONVERSATIONS)
def test_monitoring_blocks_nothing_and_tells_what_would_be(
    profile: dict[str, Any], verdict: Verdict, conversation: Conversation
) -> None:
    enforced = made(profile)
    if enforced is None:
        return
    one = decide(enforced, verdict, conversation)
    other = decide(enforced.model_copy(update={"mode": "monitor"}), verdict, conversation)
    assert one.action is one.would is other.would
    assert other.action is PASS
    assert other.model_copy(update={"action": one.action, "mode": "enforce"}) == one


def _number(rule: dict[str, Any], key: str) -> float | None:
    return rule[key] if isinstance(rule.get(key), float) else None


@settings(deadline=None)
@given(PROFILES, VERDICTS, CONVERSATIONS, st.data())
def test_a_raised_threshold_or_a_scenario_that_is_off_never_makes_it_stricter(
    profile: dict[str, Any], verdict: Verdict, conversation: Conversation, data: st.DataObject
) -> None:
    before = made(profile)
    scenarios = profile.get("scenarios", {})
    rules = [profile[k] for k in ("default", "prompt", "response") if k in profile]
    numbers = [(r, k) for r in (*rules, *scenarios.values()) if r != "off" for k in r if _number(r, k) is not None]
    if before is None or not (numbers or scenarios):
        return
    stricter = decide(before, verdict, conversation).would
    if numbers and data.draw(st.booleans()):
        rule, key = data.draw(st.sampled_from(numbers))
        rule[key] = data.draw(st.floats(rule[key], 1))
    elif scenarios:
        scenarios[data.draw(st.sampled_from(list(scenarios)))] = "off"
    after = made(profile)
    if after is not None:
        assert decide(after, verdict, conversation).would.severity <= stricter.severity


@settings(deadline=None)
@given(VERDICTS, CONVERSATIONS)
def test_the_bundled_strict_profile_is_never_milder_than_the_default(
    verdict: Verdict, conversation: Conversation
) -> None:
    decisions = [decide(profile, verdict, conversation) for profile in BUNDLED]
    assert decisions[0].action.severity >= decisions[1].action.severity
    assert decisions[2].would is decisions[1].action
    assert decisions[1].action is BLOCK or verdict.label in (Label.SAFE, Label.CONTROVERSIAL)
