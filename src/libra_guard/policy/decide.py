"""From a verdict to an action."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from libra_guard.errors import UsageError
from libra_guard.policy.profile import GUARD, Action, Mode, Policy, Rule, Threshold
from libra_guard.records import Conversation, Label, Target, Verdict
from libra_guard.taxonomy import CategorySystem, translate
from libra_guard.taxonomy import scenario as scenario_of

CLEAR = 0.5
"""Score from which on a category is named for sure."""
LIKELY = 0.3
"""Score from which on a guess may be good enough to choose the answer by."""
AHEAD = 3.0
"""So many times the score of the next scenario such a guess must have."""
DISTRESS = 0.1
"""From this score of 身心健康 on, a guess at another scenario does not choose the answer: it has no line of help."""

_HEALTH = scenario_of("身心健康").name
_SCORE_OF_LABEL = {Label.SAFE: 0.0, Label.CONTROVERSIAL: 0.5, Label.UNSAFE: 1.0}


class Decision(BaseModel):
    """What happens to a text. Nothing in it quotes the text."""

    model_config = ConfigDict(frozen=True)

    action: Action
    would: Action
    """What ``enforce`` mode would do; in that mode the same as ``action``."""
    scenarios: tuple[str, ...] = ()
    """English names of the scenarios that speak against the text, the worst first; empty where it would pass."""
    guessed: bool = False
    """Whether no category was sure: the scenario is the likeliest one."""
    likely: bool = False
    """Of a guess: whether it is clear enough to give the answer of the scenario, and not the general one."""
    reason: str
    """One line in English."""
    policy: str
    """Name of the profile that decided."""
    mode: Mode
    """That of the profile."""
    listed: str | None = None
    """Where in the lists the text was found: ``deny: words.txt line 12``."""


class _Named(NamedTuple):
    """A scenario that a verdict names; None for what is none of Libra's."""

    scenario: str | None
    score: float


class _Outcome(NamedTuple):
    action: Action
    reason: str
    scenarios: tuple[str, ...] = ()
    guessed: bool = False
    likely: bool = False
    listed: str | None = None


def decide(
    policy: Policy,
    verdict: Verdict,
    conversation: Conversation,
    *,
    system: CategorySystem | None = None,
    passage: str | None = None,
) -> Decision:
    """What a profile makes of a verdict.

    In this order: a text that the deny list has something of is blocked; one that stands in the allow list passes; of
    one whose verdict could not be read the profile's ``unreadable`` is done; else the rules of the scenarios that the
    verdict names decide, the strictest first.

    Args:
        policy: The profile.
        verdict: What the guard said.
        conversation: What was judged; its last message is looked up in the lists.
        system: Of the guard's categories; None where they are its user's own, or Libra's by name.
        passage: Of a part of a growing answer: the part with text before it, in which the deny list is looked up.
    """
    outcome = _listed(policy, conversation, passage) or _judged(policy, verdict, conversation.target, system)
    return Decision(
        action=Action.PASS if policy.mode == "monitor" else outcome.action,
        would=outcome.action,
        scenarios=outcome.scenarios,
        guessed=outcome.guessed,
        likely=outcome.likely,
        reason=outcome.reason,
        policy=policy.name,
        mode=policy.mode,
        listed=outcome.listed,
    )


def _listed(policy: Policy, conversation: Conversation, passage: str | None) -> _Outcome | None:
    text = conversation.messages[-1].content
    if denied := policy.deny.find(text if passage is None else passage):
        scenarios = () if denied.scenario is None else (denied.scenario,)
        return _Outcome(Action.BLOCK, "the deny list has something of it", scenarios, listed=f"deny: {denied.place}")
    if place := policy.allow.find(text):
        return _Outcome(Action.PASS, "the allow list has this very text", listed=f"allow: {place}")
    return None


def _judged(policy: Policy, verdict: Verdict, target: Target, system: CategorySystem | None) -> _Outcome:
    if verdict.label is None:
        return _Outcome(policy.unreadable, "the guard's answer could not be read")
    named = named_scenarios(verdict, system)
    guessed = bool(named) and named[0].score < CLEAR
    found = [
        (_action(rule, verdict, policy.controversial), scenario)
        for scenario, rule in _rules(policy, target, named, guessed=guessed)
    ]
    worst = max((action for action, _ in found), key=lambda a: a.severity, default=Action.PASS)
    if worst is Action.PASS:
        return _Outcome(worst, _why_it_passes(verdict, off=not found))
    # Sorting keeps the order of the scores among equals.
    found.sort(key=lambda pair: -pair[0].severity)
    against = tuple(scenario for action, scenario in found if scenario is not None and action is not Action.PASS)
    guessed = guessed and bool(against)
    return _Outcome(worst, _why(verdict), against, guessed, guessed and _likely(_ranked(verdict, system)))


def _likely(ranked: list[_Named]) -> bool:
    first, *others = ranked
    if first.score < LIKELY or any(first.score < AHEAD * one.score for one in others):
        return False
    return all(one.scenario != _HEALTH or one.score < DISTRESS for one in others)


def _rules(policy: Policy, target: Target, named: list[_Named], *, guessed: bool) -> Iterator[tuple[str | None, Rule]]:
    """The rules that apply. What is no more than a guess can make a decision stricter, never milder."""
    for one in named:
        if (rule := policy.rule(target, one.scenario)) is not None:
            yield one.scenario, rule
    if (guessed or not named) and (rule := policy.rule(target)) is not None:
        yield None, rule


def named_scenarios(verdict: Verdict, system: CategorySystem | None) -> list[_Named]:
    """The scenarios that a verdict names, the highest score first: those that are sure, or else the likeliest.

    A score of another system's category goes to every scenario that the category is tied to. A category that is tied
    to none, or that nobody knows, is named as None.

    Args:
        verdict: Its categories; a score outside of [0, 1] counts as 1.
        system: Of these categories; None: those with a name of Libra's taxonomy are taken for it.
    """
    ranked = _ranked(verdict, system)
    least = min(CLEAR, ranked[0].score) if ranked else CLEAR
    return [one for one in ranked if one.score >= least]


def _ranked(verdict: Verdict, system: CategorySystem | None) -> list[_Named]:
    """All scenarios that have a score, the highest first."""
    scores: dict[str | None, float] = {}
    for category, score in verdict.categories.items():
        score = score if 0 <= score <= 1 else 1.0
        for scenario in _scenarios_of(category, "libra" if system is None else system.name):
            scores[scenario] = max(score, scores.get(scenario, 0.0))
    return sorted((_Named(s, score) for s, score in scores.items() if score > 0), key=lambda one: -one.score)


@lru_cache(maxsize=1024)
def _scenarios_of(category: str, system: str) -> tuple[str | None, ...]:
    try:
        return tuple(translate({category: 1.0}, system, "libra")) or (None,)
    except UsageError:
        return (None,)


def _action(rule: Rule, verdict: Verdict, controversial: Action) -> Action:
    if _reached(rule.block, verdict):
        return Action.BLOCK
    own = Action.REVIEW if _reached(rule.review, verdict) else Action.PASS
    doubt = controversial if verdict.label is Label.CONTROVERSIAL else Action.PASS
    return max(own, doubt, key=lambda action: action.severity)


def _reached(threshold: Threshold, verdict: Verdict) -> bool:
    for part in threshold if isinstance(threshold, tuple) else (threshold,):
        if part == GUARD and verdict.label is Label.UNSAFE:
            return True
        # Not "at least": a score that is no number must not pass for a low one.
        if isinstance(part, float | int) and not _score(verdict) < part:
            return True
    return False


def _score(verdict: Verdict) -> float:
    """The unsafe score; of a guard without scores, what its label comes to."""
    if verdict.unsafe_score is not None:
        return verdict.unsafe_score
    return 1.0 if verdict.label is None else _SCORE_OF_LABEL[verdict.label]


def _why(verdict: Verdict) -> str:
    told = "no score" if verdict.unsafe_score is None else f"unsafe score {verdict.unsafe_score:.3f}"
    return f"the guard says {verdict.label}, {told}"


def _why_it_passes(verdict: Verdict, *, off: bool) -> str:
    return _why(verdict) + ("; the scenarios that it names are switched off" if off and verdict.flagged else "")
