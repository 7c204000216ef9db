"""Llama Guard 3 and 4: ``safe``, or ``unsafe`` and a line of category codes.

Format: meta-llama/PurpleLlama, Llama-Guard3/8B/MODEL_CARD.md. P(unsafe) is that of the first token, as the card says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from libra_guard.backends.base import Backend, Prompt
from libra_guard.guards.generative import GenerativeGuard, Reading
from libra_guard.guards.rendering import Frame
from libra_guard.records import Conversation, Label, Role, Target
from libra_guard.taxonomy import category_system

_SYSTEM = category_system("llama-guard-3")
_LABELS = {"safe": Label.SAFE, "unsafe": Label.UNSAFE}
# A chat template may leave the blank lines before the answer to the model: the label's probability is that of both
# spellings, hence of the first token that is not white space. An explanation begins as the model would by itself.
_BEHIND_BLANK_LINES = {f"\n\n{word}": label for word, label in _LABELS.items()}
_CODE = re.compile(r"\bS\d+\b")


class LlamaGuard(GenerativeGuard):
    """Judges the last message of a conversation, whose earlier turns are read too.

    Args:
        backend: One that can ``choose`` or ``generate``.
        chat: Whether the model's or server's own chat template writes the prompt; by default the text of the model
            card does, whose categories are those of Llama Guard 3. Llama Guard 4 has its own template.
        categories: How many there are, from S1 on, in that text and in answers: 13 for Llama-Guard-3-1B.
        **options: Those of ``GenerativeGuard``.
    """

    name = "llama-guard"
    system = _SYSTEM
    multi_turn = True
    answer_tokens = 20

    def __init__(
        self, backend: Backend, *, chat: bool = False, categories: Literal[13, 14] = 14, **options: Any
    ) -> None:
        super().__init__(backend, **options)
        self.chat = chat
        self.categories = _SYSTEM.categories[:categories]

    def ask(self, conversation: Conversation, *, prefix: str = "") -> Prompt:
        """See ``GenerativeGuard.ask``."""
        messages = tuple(m for m in conversation.messages if m.role is not Role.SYSTEM)
        if self.chat:
            return Prompt(messages, prefix=prefix)
        frame = Frame()
        parts = frame.render(
            "llama_guard.j2",
            role="Agent" if conversation.target is Target.RESPONSE else "User",
            categories=self.categories,
            messages=[{"role": m.role.value, "content": frame.slot(m.content.strip())} for m in messages],
        )
        return Prompt.from_parts(parts, prefix=prefix)

    def choices(self, target: Target) -> Mapping[str, Label]:
        """See ``GenerativeGuard.choices``."""
        return _BEHIND_BLANK_LINES | _LABELS if self.chat else _LABELS

    def read(self, text: str, target: Target) -> Reading:
        """See ``GenerativeGuard.read``.

        The first line says the label and nothing else, the second the codes. Nothing follows ``safe``, or the answer
        contradicts itself.
        """
        first, _, rest = text.strip().partition("\n")
        label = _LABELS.get(first.strip())
        if label is Label.SAFE and rest:
            return Reading(None)
        known = {category.code for category in self.categories}
        codes = [code for code in _CODE.findall(rest.strip().partition("\n")[0]) if code in known]
        return Reading(label, dict.fromkeys(codes, 1.0) if label is Label.UNSAFE else {})
