"""YuFeng-XGuard-Reason: the id of one category (``sec`` is safe), then an ``<explanation>``.

Format: Alibaba-AAIG/YuFeng-XGuard-Reason, README.md; the model's own chat template writes the prompt. The score is read
from the first token's probabilities over the ids, as there; thresholds: Lin et al. 2026, arXiv:2601.15588.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from libra_guard.backends.base import Backend, Prompt
from libra_guard.backends.control_tokens import KNOWN, neutralise
from libra_guard.errors import UsageError
from libra_guard.guards.deferred import DeferredGuard
from libra_guard.guards.generative import LEFT_OUT, LITTLE, Reading
from libra_guard.guards.texts import text_or_file
from libra_guard.guards.thoughts import without_thoughts
from libra_guard.records import Conversation, Label, Message, Method, Role, Target, Verdict
from libra_guard.taxonomy import category_system

THRESHOLD, QUESTION_THRESHOLD = 0.8, 0.5
"""The report's, for answers and for questions."""
SAFE = "sec"
_SYSTEM = category_system("xguard")
# A policy's categories: "- id: Name" at the beginning of a line; what they mean stands indented below.
_NAMED = re.compile(r"^-[ \t]*([^\s:：]+)[ \t]*[:：]", re.MULTILINE)
_OPEN, _CLOSE = "<explanation>", "</explanation>"


class XGuard(DeferredGuard):
    """Judges a question, an answer, or the pair by 28 categories of risk.

    The score is the share of all risks together in the ids' probability; ``categories`` holds each risk that the model
    gives more than 1 %, whether or not the text is unsafe.

    Args:
        backend: One that can ``choose`` or ``generate``.
        threshold: Unsafe from this score on; by default 0.8 for answers and 0.5 for questions.
        policy: A dynamic policy (of the 8B model), or the path of a text file with one: ``- dw: Dangerous Weapons``
            widens or narrows a category, ``- a: Name`` adds one, indented lines below say what it means.
        reason_first: Whether the explanation comes before the id, which then costs a generated text.
        **options: Those of ``GenerativeGuard``.

    Raises:
        UsageError: The policy names no category or an impossible id, or the backend cannot write the explanation.
    """

    name = "xguard"
    system = _SYSTEM
    answer_tokens = 200

    def __init__(
        self,
        backend: Backend,
        *,
        threshold: float | None = None,
        policy: str | None = None,
        reason_first: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(backend, threshold=THRESHOLD if threshold is None else threshold, **options)
        # A threshold of the caller's own holds for questions too.
        self.question_threshold = QUESTION_THRESHOLD if threshold is None else threshold
        if reason_first and Method.GENERATE not in backend.capabilities:
            raise UsageError(f"reason_first: the explanation comes first, and '{backend.name}' cannot generate it")
        self.policy = None if policy is None else text_or_file(policy, "policy")
        self.reason_first = reason_first
        risks = dict.fromkeys((*_SYSTEM.codes, *_new_ids(self.policy)), Label.UNSAFE)
        self._labels = {SAFE: Label.SAFE, **risks}

    def ask(self, conversation: Conversation, *, prefix: str = "") -> Prompt:
        """See ``GenerativeGuard.ask``: the template reads one message, or a question and its answer."""
        question = conversation.question
        messages = [Message(role=Role.USER, content=question)] if question else []
        if conversation.response is not None:
            messages.append(conversation.messages[-1])
        how = {"policy": self.policy, "reason_first": self.reason_first}
        return Prompt(tuple(messages), prefix=prefix, template_options=how)

    def choices(self, target: Target) -> Mapping[str, Label]:
        """See ``GenerativeGuard.choices``: every category's id."""
        return self._labels

    def deferred(self, target: Target) -> bool:
        """See ``DeferredGuard.deferred``."""
        return self.reason_first

    def before_label(self, text: str, target: Target) -> str:
        """See ``DeferredGuard.before_label``."""
        # An explanation may quote what it judges, and a prefix goes to the model as it is.
        return neutralise(f"{text.rpartition(_CLOSE)[0]}{_CLOSE}\n", KNOWN)

    def read(self, text: str, target: Target) -> Reading:
        """See ``GenerativeGuard.read``: an id alone, or with an explanation on the one side where it belongs."""
        text = without_thoughts(text).strip()
        if self.reason_first:
            explanation, closed, code = text.rpartition(_CLOSE)
            if not closed or not explanation.startswith(_OPEN):
                return Reading(None)
            explanation = explanation.removeprefix(_OPEN)
        else:
            code, _, rest = text.partition(_OPEN)
            # An answer that ended too early has no end of its explanation.
            explanation, _, after = (rest if _CLOSE in rest else rest + _CLOSE).rpartition(_CLOSE)
            if after.strip():
                return Reading(None)
        label = self._labels.get(code := code.strip())
        return Reading(label, {code: 1.0} if label is Label.UNSAFE else {}, (label and explanation.strip()) or None)

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        own = {"question_threshold": self.question_threshold, "reason_first": self.reason_first}
        return {**super().provenance(), **own}

    def _told(self, written: Verdict, chosen: Verdict, beginning: str, words: Mapping[str, Label]) -> dict[str, Any]:
        # The ids' probabilities tell the categories; an explanation of another id does not explain this one.
        agreed = chosen.label is written.label
        told = {"analysis": written.analysis} if agreed else {"notes": (*chosen.notes, LEFT_OUT)}
        return {"raw": written.raw, **told}

    def _chosen(self, found: Mapping[str, float], words: Mapping[str, Label], target: Target) -> Verdict | None:
        verdict = super()._chosen(found, words, target)
        risks = {code: p for code, p in found.items() if code != SAFE and p > LITTLE}
        return verdict and verdict.model_copy(update={"categories": risks})

    def _beginning(self, label: Label | None, target: Target) -> str:
        # Of several risks the model names its own.
        return f"{SAFE}\n{_OPEN}\n" if label is Label.SAFE and self.backend.continues else ""

    def _read_begun(self, beginning: str, text: str, target: Target) -> Reading:
        # The one pass has told the categories with their probabilities.
        return replace(super()._read_begun(beginning, text, target), categories={})


def _new_ids(policy: str | None) -> list[str]:
    """The ids that a policy adds to the model's own."""
    named = _NAMED.findall(policy or "")
    if policy and not named:
        raise UsageError("the policy names no category: a line '- a: Name' adds one, '- dw: Name' changes the model's")
    new = [code for code in dict.fromkeys(named) if code not in (SAFE, *_SYSTEM.codes)]
    if wrong := next((code for code in new if not re.fullmatch("[A-Za-z]", code)), None):
        raise UsageError(f"the policy names '{wrong}': a new category has one letter, as in '- a: Name'")
    return new
