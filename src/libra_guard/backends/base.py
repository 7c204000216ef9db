"""A backend knows how to run a model and nothing of safety.

Three capabilities and no more: ``generate``, ``choose``, ``logits``. A backend declares those it has; a guard asks
for the best one it can use.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libra_guard.errors import BackendError
from libra_guard.records import Message, Method, Role

Text = str | tuple[str, str]
"""One text, or two that the tokenizer joins as a pair."""


@dataclass(frozen=True)
class Prompt:
    """What a generative model is asked."""

    messages: tuple[Message, ...]
    """Rendered through the model's chat template, or as plain text where ``raw`` is set."""
    prefix: str = ""
    """How the model's answer begins; it goes on from there."""
    raw: bool = False
    """No chat template: the messages' texts as they are, for base models."""
    template_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the chat template, for guards whose template takes some."""

    @classmethod
    def from_user(cls, text: str, *, prefix: str = "", raw: bool = False) -> Prompt:
        """One user message and no system message."""
        return cls((Message(role=Role.USER, content=text),), prefix=prefix, raw=raw)


class Span(NamedTuple):
    """Where a token stands in its text, in characters: ``text[start:end]``."""

    start: int
    end: int


class Backend(ABC):
    """Runs one model. Subclasses fill in the methods of the capabilities that they declare."""

    name: ClassVar[str]
    capabilities: frozenset[Method]
    context: int | None = None
    """Tokens the model can take, special tokens included; None where unknown (a server judges for itself)."""
    continues: bool = True
    """Whether an answer goes on from ``Prompt.prefix``; where not, it is not sent and the whole answer comes back."""

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """Texts that follow each prompt's prefix (the prefix itself is not repeated).

        Args:
            prompts: Any number; the backend batches them.
            max_tokens: At most so many new tokens each.
            temperature: 0 is greedy.
            seed: For sampling, where the backend can set one.

        Raises:
            BackendError: The model or the server failed for good.
        """
        raise BackendError(f"the backend '{self.name}' cannot generate text")

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """Probability of each choice as the next text after each prompt's prefix, the whole choice summed.

        Returns:
            Shape ``(len(prompts), len(choices))``, each in [0, 1]; rows need not sum to 1, for the model may say
            something else. NaN where the server did not tell.

        Raises:
            BackendError: The model or the server failed for good.
        """
        raise BackendError(f"the backend '{self.name}' cannot score given answers")

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """A classifier's raw outputs.

        Returns:
            Shape ``(len(texts), k)``.

        Raises:
            BackendError: The model failed.
        """
        raise BackendError(f"the backend '{self.name}' has no classifier")

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """Where each token of each text stands, without special tokens; by default one token a UTF-8 byte's worth.

        The default never counts too few for a byte-level tokenizer: a character counts once for each of its bytes.
        """
        return [[Span(i, i + 1) for i, c in enumerate(text) for _ in range(len(c.encode()))] for text in texts]

    def overhead(self, prompt: Prompt) -> int:
        """Tokens that the prompt takes, the template's own included."""
        return sum(len(s) for s in self.spans([*(m.content for m in prompt.messages), prompt.prefix])) + 32

    def provenance(self) -> dict[str, Any]:
        """What ran: backend, model, revision, dtype, device, library versions. Kept beside every result."""
        return {"backend": self.name}
