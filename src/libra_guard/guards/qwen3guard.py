"""Qwen3Guard-Gen: ``Safety: Safe|Unsafe|Controversial``, the categories, and of answers whether they are refusals.

Format: QwenLM/Qwen3Guard, README.md; the model's own chat template writes the prompt and tells by the last role what
is judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from libra_guard.backends.base import Prompt
from libra_guard.errors import UsageError
from libra_guard.guards.generative import GenerativeGuard, Reading
from libra_guard.guards.thoughts import without_thoughts
from libra_guard.records import Conversation, Label, Role, Target
from libra_guard.taxonomy import category_system

_SYSTEM = category_system("qwen3guard")
_LABELS = {"Safe": Label.SAFE, "Unsafe": Label.UNSAFE, "Controversial": Label.CONTROVERSIAL}
_SAFETY = re.compile(r"^Safety: *(Safe|Unsafe|Controversial)\s*$", re.MULTILINE)
_CATEGORIES = re.compile(r"^Categories: *(.*)$", re.MULTILINE)
# All that an answer of this label may hold; one that was cut short may end sooner.
_SAFE = re.compile(r"Safety: *Safe(\s+Categories:\s*(None)?)?(\s+Refusal:\s*(Yes|No)?)?")


class Qwen3Guard(GenerativeGuard):
    """Judges the last message of a conversation in three states; its earlier turns are read too."""

    name = "qwen3guard"
    system = _SYSTEM
    multi_turn = True
    answer_tokens = 128

    def ask(self, conversation: Conversation, *, prefix: str = "") -> Prompt:
        """See ``GenerativeGuard.ask``."""
        return Prompt(tuple(m for m in conversation.messages if m.role is not Role.SYSTEM), prefix=prefix)

    def opening(self, target: Target) -> str:
        """See ``GenerativeGuard.opening``."""
        return "Safety: "

    def choices(self, target: Target) -> Mapping[str, Label]:
        """See ``GenerativeGuard.choices``."""
        return _LABELS

    def read(self, text: str, target: Target) -> Reading:
        """See ``GenerativeGuard.read``.

        A second line that says another label makes the answer unreadable, and so does whatever does not belong to
        ``Safe``, a category above all.
        """
        text = without_thoughts(text)
        said = set(_SAFETY.findall(text))
        if len(said) != 1 or (said == {"Safe"} and not _SAFE.fullmatch(text.strip())):
            return Reading(None)
        # Only on their own line: "Violent" stands inside "Non-violent Illegal Acts" too.
        line = _CATEGORIES.search(text)
        found = [self._code(name) for name in line[1].split(",")] if line else []
        return Reading(_LABELS[said.pop()], {code: 1.0 for code in found if code})

    def _code(self, name: str) -> str | None:
        try:
            return _SYSTEM.find(name.strip()).code
        except UsageError:
            return None
