"""PolyGuard: the lines of WildGuard in 17 languages, and the policies that question and answer violate.

Format: kpriyanshu256/polyguard, inference.py. The answer has five lines: ``Harmful request``, ``Request safety
violations``, ``Response refusal``, ``Harmful response``, ``Response safety violations``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from libra_guard.backends.base import Prompt
from libra_guard.guards.generative import Reading
from libra_guard.guards.rendering import template
from libra_guard.guards.wildguard import WildGuard, line
from libra_guard.records import Conversation, Label, Message, Role, Target
from libra_guard.taxonomy import category_system

_SYSTEM = category_system("llama-guard-3")
_VIOLATIONS = {Target.PROMPT: "Request safety violations", Target.RESPONSE: "Response safety violations"}
_CODE = re.compile(r"\bS\d+\b")


class PolyGuard(WildGuard):
    """Judges a question, or an answer in view of its question, with the categories of Llama Guard 3."""

    name = "polyguard"
    system = _SYSTEM
    answer_tokens = 100

    def ask(self, conversation: Conversation, *, prefix: str = "") -> Prompt:
        """See ``GenerativeGuard.ask``; the text that is missing is empty."""
        rules = template("polyguard_system.j2").render(categories=_SYSTEM.categories)
        told = template("polyguard_user.j2").render(
            question=conversation.question, response=conversation.response or ""
        )
        messages = (Message(role=Role.SYSTEM, content=rules), Message(role=Role.USER, content=told))
        return Prompt(messages, prefix=prefix)

    def read(self, text: str, target: Target) -> Reading:
        """See ``GenerativeGuard.read``; categories are read in the target's own line.

        Where that line names any of what is not harmful, the answer contradicts itself.
        """
        found = super().read(text, target)
        codes = _CODE.findall(line(text, _VIOLATIONS[target]) or "")
        if found.label is Label.UNSAFE:
            return replace(found, categories={code: 1.0 for code in codes if code in _SYSTEM.codes})
        return replace(found, label=None) if codes else found
