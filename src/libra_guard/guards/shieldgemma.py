"""ShieldGemma: asked once for each policy whether the last message violates it; answers ``Yes`` or ``No``, then why.

Format: google-gemini/gemma-cookbook, responsible/shieldgemma_on_huggingface.ipynb. A policy's score is the probability
of ``Yes`` against ``No`` as the first token, and the worst policy decides.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from libra_guard.backends.base import Backend, Prompt
from libra_guard.errors import UsageError
from libra_guard.guards.generative import GenerativeGuard, Reading
from libra_guard.guards.rendering import Frame
from libra_guard.guards.windows import merge
from libra_guard.records import Conversation, Label, Method, Target, Verdict
from libra_guard.taxonomy import category_system

_SYSTEM = category_system("shieldgemma")
_HARMS = {
    "Dangerous Content": "harming oneself and/or others (e.g., accessing or building firearms and explosive devices, "
    "promotion of terrorism, instructions for suicide).",
    "Harassment": "is malicious, intimidating, bullying, or abusive content targeting another individual (e.g., "
    "physical threats, denial of tragic events, disparaging victims of violence).",
    "Hate Speech": "targeting identity and/or protected attributes (e.g., racial slurs, promotion of discrimination, "
    "calls to violence against protected groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, "
    "religion, disability, age, nationality, veteran status, sexual orientation, gender, gender identity, caste, or "
    "any other protected status. We do allow content that includes a reference to a protected individual or group in a "
    "positive manner.",
    "Sexually Explicit Information": "contains references to sexual acts or other lewd content (e.g., sexually graphic "
    "descriptions, content aimed at causing arousal). Medical or scientific terms related to human anatomy or sex "
    "education are permitted.",
}
_DUTIES = {
    Target.PROMPT: "The prompt shall not contain or seek generation of content that",
    Target.RESPONSE: "The chatbot shall not generate content that",
}
_LABELS = {"Yes": Label.UNSAFE, "No": Label.SAFE}
# Not "No Hate Speech", which is a policy's name, and not "Yes or No".
_ANSWER = re.compile(r"^\s*(Yes|No)[ \t]*(?:[.,:;!]|$)", re.MULTILINE)
# A no is a common word in the reasons of a yes; a yes has no place in those of a no.
_CONTRADICTIONS = {
    "Yes": re.compile(r"^\s*No[ \t]*(?:[.,:;!]|$)", re.MULTILINE),
    "No": re.compile(r"\byes\b", re.IGNORECASE),
}


class ShieldGemma(GenerativeGuard):
    """Judges the last message by each of its policies.

    ``categories`` holds every policy's own score, whether or not the text is unsafe. Where answers are generated,
    there are no scores, and ``categories`` holds what is violated.

    Args:
        backend: One that can ``choose`` or ``generate``.
        policies: Which of the four policies to ask; or policies of your own, name → the whole sentence that stands in
            the prompt. By default all four.
        **options: Those of ``GenerativeGuard``.

    Raises:
        UsageError: There is no policy, none of that name, or one without a text.
    """

    name = "shieldgemma"
    system = _SYSTEM

    def __init__(
        self, backend: Backend, *, policies: Sequence[str] | Mapping[str, str] = _SYSTEM.codes, **options: Any
    ) -> None:
        super().__init__(backend, **options)
        self.policies = _principles(policies)

    def ask(self, conversation: Conversation, *, prefix: str = "", policy: str | None = None) -> Prompt:
        """See ``GenerativeGuard.ask``.

        Args:
            conversation: What is judged.
            prefix: How the answer is to begin.
            policy: Name of the policy that is asked; by default the one with the longest text.
        """
        frame = Frame()
        texts = {name: principle[conversation.target] for name, principle in self.policies.items()}
        response = conversation.response
        parts = frame.render(
            "shieldgemma.j2",
            question=frame.slot(conversation.question),
            response=None if response is None else frame.slot(response),
            policy=frame.slot(texts[policy or max(texts, key=lambda name: len(texts[name]))]),
        )
        return Prompt.from_parts(parts, prefix=prefix)

    def choices(self, target: Target) -> Mapping[str, Label]:
        """See ``GenerativeGuard.choices``."""
        return _LABELS

    def read(self, text: str, target: Target) -> Reading:
        """See ``GenerativeGuard.read``.

        The first word is the answer, what follows its reasons; where these say the other word, the answer is
        unreadable.
        """
        first = _ANSWER.match(text)
        if not first or _CONTRADICTIONS[first[1]].search(text, first.end()):
            return Reading(None)
        return Reading(_LABELS[first[1]], analysis=_reasons(text[first.end() :]))

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        texts = {name: principle[Target.RESPONSE] for name, principle in self.policies.items()}
        return {**super().provenance(), "policies": texts}

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        asked = [(conversation, name) for conversation in conversations for name in self.policies]
        prompts = [self.ask(conversation, policy=name) for conversation, name in asked]
        found: list[Verdict | None] = [None] * len(asked)
        if self.method is Method.CHOOSE:
            rows = self.backend.choose(prompts, tuple(_LABELS))
            found = [
                self._chosen(dict(zip(_LABELS, map(float, row), strict=True)), _LABELS, conversation.target)
                for row, (conversation, _) in zip(rows, asked, strict=True)
            ]
        untold = [i for i, verdict in enumerate(found) if verdict is None]
        if untold and Method.GENERATE in self.backend.capabilities:
            for i, text in zip(untold, self._texts([prompts[i] for i in untold]), strict=True):
                found[i] = self._parsed(text, asked[i][0].target)
        told = [_of_policy(name, verdict) for (_, name), verdict in zip(asked, found, strict=True)]
        of_each = (told[i : i + len(self.policies)] for i in range(0, len(told), len(self.policies)))
        return [merge(verdicts).verdict.model_copy(update={"windows": 1}) for verdicts in of_each]

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        """Explains the answer on the policy that decided."""
        explained = list(verdicts)
        for name, principle in self.policies.items():
            rows = [i for i, verdict in enumerate(verdicts) if _worst(verdict) == name]
            alone = copy.copy(self)
            alone.policies = {name: principle}
            told = super(ShieldGemma, alone)._explain([conversations[i] for i in rows], [verdicts[i] for i in rows])
            for i, verdict in zip(rows, told, strict=True):
                explained[i] = verdict
        return explained

    def _read_begun(self, beginning: str, text: str, target: Target) -> Reading:
        # Behind a beginning of the guard's own the reasons may go on without a stop.
        return Reading(_LABELS[beginning], analysis=_reasons(text)) if beginning else self.read(text, target)


def _principles(given: Sequence[str] | Mapping[str, str]) -> dict[str, dict[Target, str]]:
    """What the prompt says of each policy, for questions and for answers."""
    if not given:
        raise UsageError("policies: at least one is needed")
    if isinstance(given, Mapping):
        if blank := [name for name, text in given.items() if not (name.strip() and text.strip())]:
            raise UsageError(f"policies: '{blank[0]}' needs a name and a text")
        return {name: dict.fromkeys(Target, text.strip()) for name, text in given.items()}
    codes = [_SYSTEM.find(name).code for name in given]
    return {code: {t: f'"No {code}": {duty} {_HARMS[code]}' for t, duty in _DUTIES.items()} for code in codes}


def _of_policy(name: str, verdict: Verdict | None) -> Verdict:
    """The verdict by one policy, which is its category."""
    if verdict is None or verdict.label is None:
        verdict = verdict or Verdict(label=None, valid=False, method=Method.CHOOSE)
        return verdict.model_copy(update={"notes": (f"the answer on the policy '{name}' cannot be read",)})
    if verdict.unsafe_score is not None:
        return verdict.model_copy(update={"categories": {name: verdict.unsafe_score}})
    return verdict.model_copy(update={"categories": {name: 1.0} if verdict.label is Label.UNSAFE else {}})


def _worst(verdict: Verdict) -> str | None:
    return max(verdict.categories, key=lambda name: verdict.categories[name], default=None)


def _reasons(text: str) -> str | None:
    return text.lstrip(" .,:;!\n").rstrip() or None
