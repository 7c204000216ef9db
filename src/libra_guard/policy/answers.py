"""What is said in place of a blocked text, and in which language."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, model_validator

from libra_guard.configuration import Strict
from libra_guard.records import check_text
from libra_guard.taxonomy import SCENARIOS, scenario

Language = Literal["zh", "en"]
FIELD = "scenario"
"""What an answer may have in braces: the scenario's name, in the answer's language."""

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_WORD = re.compile(r"[^\W\d_]+")


def _answer_text(text: str) -> str:
    check_text(text, "the answer")
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; a brace that is meant is written twice: {{{{ }}}}") from None
    for _, name, form, conversion in parts:
        if name is not None and (name != FIELD or form or conversion):
            raise ValueError(
                f"an answer knows the field {{{FIELD}}} and no other; a brace that is meant is written twice"
            )
    return text.strip()


AnswerText = Annotated[str, AfterValidator(_answer_text)]


class Answer(Strict):
    """One answer in each language; a language that is left out has the bundled answer."""

    zh: AnswerText | None = None
    en: AnswerText | None = None

    @model_validator(mode="after")
    def _some(self) -> Answer:
        if self.zh is None and self.en is None:
            raise ValueError("there is no answer in it: give zh, en, or both")
        return self

    def text(self, language: Language, code: str) -> str | None:
        """The answer in a language, its fields filled in; None where there is none.

        Args:
            language: Of the answer.
            code: English name of the scenario that it is given for; another text where there is none.
        """
        text = self.zh if language == "zh" else self.en
        return None if text is None else text.format(scenario=_spoken(code, language))


@cache
def bundled_answers() -> dict[str, Answer]:
    """The answers that come with the package: of every scenario and in general, in every language."""
    text = files("libra_guard.policy").joinpath("answers.yaml").read_text(encoding="utf-8")
    return {name: Answer.model_validate(answer) for name, answer in yaml.safe_load(text).items()}


def language_of(text: str) -> Language:
    """In which language somebody who wrote this is answered: Chinese, or English for all else.

    Chinese where there are at least as many Chinese characters as words in other letters; also where there is neither.
    """
    han = len(_HAN.findall(text))
    return "zh" if han >= len(_WORD.findall(_HAN.sub(" ", text))) else "en"


def _spoken(code: str, language: Language) -> str:
    if not any(code == s.name for s in SCENARIOS):
        return "安全" if language == "zh" else "safety"
    found = scenario(code)
    return found.name_zh if language == "zh" else found.name
