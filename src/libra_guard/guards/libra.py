"""Libra-Guard: a generative guard that says 安全 or 不安全 first and why after it (the rear critic).

With the label first, the verdict is known after one forward pass: ``choose`` reads the probability of 不安全 against
安全 right after ``"答案": "``. The analysis is generated only when asked for, from the same beginning. With the front
critic the analysis is generated first, and the label chosen after it. A backend that cannot score generates the whole
answer, which is parsed; the verdict's ``method`` says which was done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from libra_guard.backends._options import checked, option_names, unknown_option
from libra_guard.backends.base import Backend, Prompt
from libra_guard.backends.control_tokens import KNOWN, neutralise
from libra_guard.errors import UsageError
from libra_guard.guards.deferred import DeferredGuard
from libra_guard.guards.json_answer import JsonAnswerGuard
from libra_guard.guards.libra_prompt import ANALYSIS_PREFIX, ANSWER_PREFIX, Critic, Example, prompt_text, read_examples
from libra_guard.records import Conversation, Method, Target, Verdict

SETTINGS = "libra_guard.json"
"""File in a model's folder that says how the model was taught: options of this guard."""
# What stands right before the label in a generated answer; a quotation mark inside a JSON text is written \\".
_BEFORE_LABEL = re.compile(r'(?<!\\)"答案"\s*:\s*"')


class LibraGuard(DeferredGuard, JsonAnswerGuard):
    """Judges an answer in view of its question with any causal language model.

    The score is P(不安全) / (P(安全) + P(不安全)). A model that gives both next to no probability is not answering the
    question that it was asked; the verdict then carries a note. A text that cannot be parsed is ``valid=False``.

    Args:
        backend: One that can ``choose`` or ``generate``.
        threshold: Unsafe from this score on.
        examples: Few-shot examples, put between the format and the conversation; or a labelled file of them.
        few_shot: How many examples to take from the file.
        critic: Where the analysis stands in the answer: as the model was taught.
        rules: Whether the prompt states the safety rules: as the model was taught.
        instruct: Whether the prompt goes through the model's chat template.
        answer_prefix: How the model's answer begins, up to the label or, with the front critic, to the analysis.
        method: ``choose`` or ``generate``; by default the best that the backend can do.
        max_new_tokens: For generated text.
        temperature: For generated text; 0 is greedy.
        seed: For sampling.

    Raises:
        UsageError: The backend can do neither, a number makes no sense, or the file has too few examples.
    """

    name = "libra"
    targets = frozenset({Target.RESPONSE})
    closing = '"\n}'

    def __init__(
        self,
        backend: Backend,
        *,
        threshold: float = 0.5,
        examples: str | Path | Sequence[Example] = (),
        few_shot: int | None = None,
        critic: Critic = Critic.REAR,
        rules: bool = False,
        instruct: bool = True,
        answer_prefix: str | None = None,
        method: Method | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 42,
    ) -> None:
        super().__init__(
            backend,
            threshold=threshold,
            method=method,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        self.critic = Critic(critic)
        if self.critic is Critic.FRONT and Method.GENERATE not in backend.capabilities:
            raise UsageError(f"critic=front: the analysis comes first, and '{backend.name}' cannot generate it")
        self.rules = rules
        self.examples = _examples(examples, few_shot, self.critic)
        self.instruct = instruct
        self.answer_prefix = answer_prefix or (ANALYSIS_PREFIX if self.critic is Critic.FRONT else ANSWER_PREFIX)

    @classmethod
    def taught(cls, model: str) -> dict[str, Any]:
        """See ``Guard.taught``: what ``libra train generative`` wrote into the model's folder."""
        path = Path(model).expanduser() / SETTINGS
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise UsageError(f"{path}: holds no options of the guard, but a {type(found).__name__}")
        known = option_names(cls)
        try:
            if unknown := [name for name in found if name not in known]:
                raise unknown_option(unknown[0], {f"the guard '{cls.name}'": known})
            return checked(cls, found)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None

    def prompt(self, question: str, response: str, *, prefix: str = "") -> Prompt:
        """The published prompt, byte for byte, and how the answer is to begin."""
        text = prompt_text(question, response, examples=self.examples, critic=self.critic, rules=self.rules)
        return Prompt.from_user(text, prefix=prefix, raw=not self.instruct)

    def ask(self, conversation: Conversation, *, prefix: str = "") -> Prompt:
        """See ``GenerativeGuard.ask``."""
        return self.prompt(conversation.question, conversation.response or "", prefix=prefix)

    def deferred(self, target: Target) -> bool:
        """See ``DeferredGuard.deferred``: the label follows the analysis of the front critic."""
        return self.critic is Critic.FRONT

    def before_label(self, text: str, target: Target) -> str:
        """See ``DeferredGuard.before_label``."""
        found = _BEFORE_LABEL.search(text)
        # An analysis may quote what it judges, and a prefix goes to the model as it is.
        return neutralise(text[: found.end()], KNOWN) if found else ""

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        own = {"few_shot": len(self.examples), "instruct": self.instruct, "critic": self.critic.value}
        return {**super().provenance(), **own, "rules": self.rules}

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        # With the front critic the analysis is there, and without a critic there is none.
        return super()._explain(conversations, verdicts) if self.critic is Critic.REAR else verdicts


def _examples(given: str | Path | Sequence[Example], count: int | None, critic: Critic) -> tuple[Example, ...]:
    if isinstance(given, str | Path):
        if count is None:
            raise UsageError(f"examples={given}: say with few_shot=N how many of them to take")
        return tuple(read_examples(given, count, critic))
    if count is not None:
        raise UsageError(f"few_shot={count}: give the labelled file to take them from with examples=PATH")
    return tuple(given)
