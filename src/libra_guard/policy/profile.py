"""What a policy profile says: rules for scenarios and targets, lists, answers."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from libra_guard.configuration import Strict
from libra_guard.policy.answers import Answer, Language, bundled_answers
from libra_guard.policy.lists import AllowList, DenyList
from libra_guard.records import Target, check_text
from libra_guard.taxonomy import SCENARIOS

if TYPE_CHECKING:
    from libra_guard.policy.decide import Decision

GUARD: Literal["guard"] = "guard"
"""In place of a threshold: the guard's own label decides."""
OFF = "off"
"""In place of a rule: the scenario does not count."""
GENERAL = "default"
"""Whose answer is given where no scenario's is."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Action(StrEnum):
    """What happens to a text, from the mildest to the strictest."""

    PASS = "pass"
    REVIEW = "review"
    """It passes, and is marked for somebody to look at."""
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """0 for the mildest."""
        return list(Action).index(self)


Mode = Literal["enforce", "monitor"]
"""``monitor`` lets everything pass, and only tells what ``enforce`` would do."""


def _threshold(value: Any) -> Any:
    if value is None:
        return None
    parts = value if isinstance(value, list | tuple) else [value]
    numbers = [part for part in parts if isinstance(part, int | float) and not isinstance(part, bool)]
    labels = [part for part in parts if part == GUARD]
    if not parts or len(numbers) + len(labels) != len(parts) or len(numbers) > 1 or len(labels) > 1:
        raise ValueError(f"a threshold is a number from 0 to 1, '{GUARD}', both in a list, or null")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"{numbers[0]} is no threshold: it must lie in [0, 1]")
    return tuple(parts) if len(parts) > 1 else parts[0]


Threshold = Annotated[
    float | Literal["guard"] | tuple[float | Literal["guard"], ...] | None, BeforeValidator(_threshold)
]
"""A score in [0, 1]; ``guard``: the guard's own label; both in a list: what comes first; None: never."""


class Rule(Strict):
    """From when on a text is blocked, and from when on it is reviewed.

    What is not said is that of the rule that it stands over: of the target's, then of the default.
    """

    block: Threshold = GUARD
    review: Threshold = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        block, review = score_of(self.block), score_of(self.review)
        if {"block", "review"} <= self.model_fields_set and block is not None and review is not None and review > block:
            raise ValueError(f"review ({review:g}) is above block ({block:g}): nothing would be reviewed")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def over(self, other: Rule) -> Rule:
        """This rule where it says something, else the other."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        # Not validated: of two rules together review may lie above block, which blocks first.
        return other.model_copy(update=said)


def score_of(threshold: Any) -> float | None:
    """The number in a threshold, where there is one."""
    parts = threshold if isinstance(threshold, tuple) else (threshold,)
    return next((float(part) for part in parts if isinstance(part, int | float)), None)


def _rule_or_off(value: Any) -> Any:
    # A bare off is false in YAML.
    if value is False or value == OFF:
        return None
    if value is None or value is True:
        raise ValueError(f"a rule is needed, such as {{block: 0.5}}, or {OFF}")
    return value


def _guard(value: str) -> str:
    return check_text(value, "the guard's name")


class Policy(Strict):
    """A policy profile: what follows from verdicts. ``read_policy`` and ``load_policy`` make one from YAML."""

    name: str
    """Letters, digits, ``.``, ``_`` and ``-``; by default that of the file."""
    guard: Annotated[str, AfterValidator(_guard)] | None = None
    """Name of the guard that judges for this profile; None: whichever there is."""
    mode: Mode = "enforce"
    default: Rule = Rule(block=GUARD, review=None)
    """Where nothing else is said."""
    prompt: Rule = Rule()
    """For questions that are judged by themselves."""
    response: Rule = Rule()
    """For answers."""
    scenarios: dict[str, Annotated[Rule | None, BeforeValidator(_rule_or_off)]] = Field(default_factory=dict)
    """English name of a scenario → its rule, for either target; None: it does not count."""
    unreadable: Action = Action.BLOCK
    """What happens where the guard's answer could not be read."""
    controversial: Action = Action.REVIEW
    """What happens at least where the guard says 有争议."""
    allow: AllowList = AllowList()
    deny: DenyList = DenyList()
    answers: dict[str, Answer] = Field(default_factory=dict)
    """English name of a scenario, or ``default`` → what is answered in place of a blocked text, if not the bundled."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"'{value}' is no name: up to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit")
        return value

    @field_validator("default")
    @classmethod
    def _whole(cls, value: Rule) -> Rule:
        return Rule(block=value.block, review=value.review)

    @field_validator("scenarios", "answers")
    @classmethod
    def _known(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        known = {s.name for s in SCENARIOS} | ({GENERAL} if info.field_name == "answers" else set())
        if unknown := sorted(set(value) - known):
            raise ValueError(f"not the English name of a scenario: {', '.join(unknown)}")
        return value

    @field_serializer("scenarios")
    def _with_off(self, value: dict[str, Rule | None]) -> dict[str, Any]:
        return {name: OFF if rule is None else rule.model_dump() for name, rule in value.items()}

    def rule(self, target: Target, scenario: str | None = None) -> Rule | None:
        """What holds for a target, in a scenario or where none is named; None: the scenario is off."""
        rule = (self.prompt if target is Target.PROMPT else self.response).over(self.default)
        if scenario not in self.scenarios:
            return rule
        own = self.scenarios[scenario]
        return None if own is None else own.over(rule)

    def answer(self, decision: Decision, language: Language) -> str:
        """What is said in place of a text: of its worst scenario, or the general answer where that is no clear one.

        Args:
            decision: On the text.
            language: Of the answer; see ``language_of``.
        """
        clear = () if decision.guessed and not decision.likely else decision.scenarios
        for scenario in (*clear, GENERAL):
            for answers in (self.answers, bundled_answers()):
                if scenario in answers and (text := answers[scenario].text(language, scenario)):
                    return text
        raise AssertionError("the bundled answers have a general one in every language")
