"""What a profile may say and probably does not mean."""

from __future__ import annotations

from collections.abc import Iterator

from libra_guard.policy.marked import Keys
from libra_guard.policy.profile import Action, Policy, Rule, score_of
from libra_guard.records import Target
from libra_guard.taxonomy import SCENARIOS

SHORT = 8
"""Characters of an allowed text below which it means what was said before it."""

Oddity = tuple[Keys, str]


def oddities(policy: Policy) -> Iterator[Oddity]:
    """What is odd, with the path of the key that it is about."""
    yield from _rules(policy)
    yield from _answers(policy)
    yield from _lists(policy)


def _rules(policy: Policy) -> Iterator[Oddity]:
    if policy.unreadable is Action.PASS:
        yield ("unreadable",), "texts that no guard could judge pass"
    off = [name for name, rule in policy.scenarios.items() if rule is None]
    if len(off) == len(SCENARIOS):
        yield ("scenarios",), "every scenario is off"
    yield from _always_blocked(policy)
    for target in Target:
        yield from _never_stopped(policy, target)
        yield from _never_reviewed(policy, target)


def _always_blocked(policy: Policy) -> Iterator[Oddity]:
    rules: dict[Keys, Rule | None] = {("default",): policy.default, ("prompt",): policy.prompt}
    rules |= {("response",): policy.response} | {("scenarios", name): rule for name, rule in policy.scenarios.items()}
    for path, rule in rules.items():
        if rule is not None and score_of(rule.block) == 0:
            yield path, "whatever this rule is for is blocked, however harmless: every score is 0 or more"


def _never_stopped(policy: Policy, target: Target) -> Iterator[Oddity]:
    rule = policy.rule(target)
    if rule is not None and rule.block is None and rule.review is None:
        said = policy.prompt if target is Target.PROMPT else policy.response
        path = target.value if "block" in said.model_fields_set else "default"
        yield (path,), f"no {target} is blocked or reviewed where no scenario has a rule of its own"


def _never_reviewed(policy: Policy, target: Target) -> Iterator[Oddity]:
    """Rules that are in order each, and not together."""
    places: dict[str | None, Keys] = {None: (target.value,)} | {name: ("scenarios", name) for name in policy.scenarios}
    for scenario, path in places.items():
        rule = policy.rule(target, scenario)
        block, review = (score_of(rule.block), score_of(rule.review)) if rule else (None, None)
        if block is not None and review is not None and review > block:
            yield path, f"a {target} is blocked from {block:g} on, before it could be reviewed from {review:g} on"


def _answers(policy: Policy) -> Iterator[Oddity]:
    for name in policy.answers:
        if policy.scenarios.get(name, policy.default) is None:
            yield ("answers", name), "this scenario is off, so its answer is given for nothing but deny lists"


def _lists(policy: Policy) -> Iterator[Oddity]:
    for i, file in enumerate(policy.deny.files):
        for line, category in file.strange:
            told = f"line {line}: '{category}' is none of Libra's categories, so the general answer is given"
            yield ("deny", "files", i), told
    for text, place in policy.allow.places.items():
        if len(text) < SHORT:
            yield ("allow",), f"{place} is so short that it means what was said before it, and it passes after anything"
        if denied := policy.deny.find(text):
            yield ("allow",), f"{place} never passes: {denied.place} of the deny list goes first"
