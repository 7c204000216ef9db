"""What is said in place of a text, and in which language."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from libra_guard.policy import Action, Decision, Policy, language_of
from libra_guard.policy.answers import Answer, bundled_answers
from libra_guard.policy.profile import GENERAL
from libra_guard.taxonomy import SCENARIOS

BIAS, HEALTH = "Bias and Discrimination", "Physical and Mental Health"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the answer is empty"),
        (" \u200b", "nothing but invisible"),
        ("a {name} b", "the field {scenario} and no other"),
        ("a {} b", "the field {scenario} and no other"),
        ("a {0} b", "the field {scenario} and no other"),
        ("{scenario.__class__}", "the field {scenario} and no other"),
        ("{scenario[0]}", "the field {scenario} and no other"),
        ("{scenario!r}", "the field {scenario} and no other"),
        ("{scenario:>99999999}", "the field {scenario} and no other"),
        ("{scenario:{scenario}}", "the field {scenario} and no other"),
        ("a { b", "written twice: {{ }}"),
        ("a } b", "written twice: {{ }}"),
    ],
)
def test_answers_that_are_none(text: str, message: str) -> None:
    for language in ("zh", "en"):
        with pytest.raises(ValidationError, match=re.escape(message)):
            Answer.model_validate({language: text})


def test_an_answer_in_no_language_is_none() -> None:
    with pytest.raises(ValidationError, match="give zh, en, or both"):
        Answer()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好", "zh"),
        ("怎么用 VPN", "zh"),
        ("請問如何報案", "zh"),
        ("How do I say 你好", "en"),
        ("hello", "en"),
        ("Привет", "en"),
        ("123 !?", "zh"),
        ("", "zh"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language


def decided(*scenarios: str, guessed: bool = False, likely: bool = False) -> Decision:
    return Decision(
        action=Action.BLOCK,
        would=Action.BLOCK,
        scenarios=scenarios,
        guessed=guessed,
        likely=likely,
        reason="",
        policy="mine",
        mode="enforce",
    )


def policy(answers: dict[str, dict[str, str]]) -> Policy:
    return Policy.model_validate({"name": "mine", "answers": answers})


def test_whose_answer_is_given() -> None:
    profile = policy(
        {BIAS: {"zh": " 关于{scenario}：不。{{}}\n", "en": "No {scenario}."}, GENERAL: {"zh": "不行（{scenario}）。"}}
    )
    bundled = bundled_answers()
    assert profile.answer(decided(BIAS, HEALTH), "zh") == "关于偏见歧视：不。{}"
    assert profile.answer(decided(BIAS), "en") == "No Bias and Discrimination."
    assert profile.answer(decided(HEALTH, BIAS), "zh") == bundled[HEALTH].zh
    assert profile.answer(decided(), "zh") == "不行（安全）。"
    assert profile.answer(decided(), "en") == bundled[GENERAL].en


def test_a_guess_is_given_the_general_answer() -> None:
    assert policy({}).answer(decided(BIAS, guessed=True), "zh") == bundled_answers()[GENERAL].zh


def test_a_clear_guess_is_given_the_answer_of_its_scenario() -> None:
    assert policy({}).answer(decided(BIAS, guessed=True, likely=True), "zh") == bundled_answers()[BIAS].zh


def test_the_bundled_answers_are_whole() -> None:
    answers = bundled_answers()
    assert list(answers) == [GENERAL, *(scenario.name for scenario in SCENARIOS)]
    for answer in answers.values():
        assert answer.zh is not None
        assert answer.en is not None
        assert 60 <= len(answer.zh) <= 220
        # No space where a line was broken, and none of the other language's punctuation.
        assert not re.search(r"[\u4e00-\u9fff，。；：] {1,}[\u4e00-\u9fff]|[,;:?!]|  ", answer.zh)
        assert answer.zh.endswith("。")
        assert not re.search(r"[\u3000-\u9fff]|  |\n", answer.en)
        assert language_of(answer.zh) == "zh"
        assert language_of(answer.en) == "en"


@pytest.mark.parametrize("name", [GENERAL, HEALTH])
def test_whoever_may_be_in_distress_is_told_where_to_turn(name: str) -> None:
    for text in bundled_answers()[name].model_dump().values():
        assert {"12356", "120", "110"} <= set(re.findall(r"\d+", text))
