"""A backend knows how to run a model and nothing of safety.

Three capabilities and no more: ``generate``, ``choose``, ``logits``. A backend declares those it has; a guard asks
for the best one it can use.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libra_guard.errors import BackendError
from libra_guard.records import Message, Method, Role

Text = str | tuple[str, str]
"""One text, or two that the tokenizer joins as a pair."""


class UserText(NamedTuple):
    """A piece of a raw prompt that a user wrote: in it, control tokens are broken apart."""

    text: str


@dataclass(frozen=True)
class Prompt:
    """What a generative model is asked."""

    messages: tuple[Message, ...]
    """Rendered through the model's chat template, or as plain text where ``raw`` is set."""
    prefix: str = ""
    """How the model's answer begins; it goes on from there."""
    raw: bool = False
    """No chat template: the messages' texts as they are, for base models; or ``parts``, where there are any."""
    parts: tuple[str | UserText, ...] = ()
    """The whole raw text of a format that has control tokens of its own, which the guard writes and a user cannot."""
    template_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the chat template, for guards whose template takes some."""
    # Not in the repr, of which the prompt's hash in the provenance is made.
    own: int = field(default=0, repr=False)
    """How many of the last messages are the guard's own words, whose control tokens stay as they are."""

    @classmethod
    def from_parts(cls, parts: Sequence[str | UserText], *, prefix: str = "") -> Prompt:
        """A raw prompt in a format of its own."""
        return cls((), prefix=prefix, raw=True, parts=tuple(parts))

    def raw_text(self, inert: Callable[[str], str]) -> str:
        """The text of a raw prompt, its prefix included.

        Args:
            inert: Breaks control tokens apart; every text that a user wrote goes through it.
        """
        if not self.parts:
            return inert("".join(message.content for message in self.messages)) + self.prefix
        told = (inert(part.text) if isinstance(part, UserText) else part for part in self.parts)
        return "".join(told) + self.prefix

    def texts(self, inert: Callable[[str], str]) -> list[str]:
        """The messages' texts for a chat template.

        Args:
            inert: Breaks control tokens apart; every text but the guard's own goes through it.
        """
        users = len(self.messages) - self.own
        return [inert(m.content) if i < users else m.content for i, m in enumerate(self.messages)]

    @classmethod
    def from_user(cls, text: str, *, prefix: str = "", raw: bool = False) -> Prompt:
        """One user message and no system message."""
        return cls((Message(role=Role.USER, content=text),), prefix=prefix, raw=raw)


class Completion(NamedTuple):
    """A generated text and what it took."""

    text: str
    prompt_tokens: int
    new_tokens: int
    cut: bool = False
    """Whether the text ended because it had reached the limit of tokens."""


class Scored(NamedTuple):
    """Probabilities of choices and what they took."""

    row: NDArray[np.float64]
    """One for each choice."""
    prompt_tokens: int
    new_tokens: int = 0


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
    greedy: bool = True
    """Whether a temperature of 0 leaves nothing to chance, so that one request has one answer."""

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

    def complete(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[Completion]:
        """``generate`` with counts of tokens: the server's, where it tells; else what ``overhead`` and ``spans`` say.

        Raises:
            BackendError: The model or the server failed for good.
        """
        texts = self.generate(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return [self.counted(p, text, max_tokens) for p, text in zip(prompts, texts, strict=True)]

    def counted(self, prompt: Prompt, text: str, max_tokens: int) -> Completion:
        """A generated text with this backend's own counts."""
        new = len(self.spans([text])[0])
        return Completion(text, self.overhead(prompt), min(new, max_tokens), new >= max_tokens)

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """Probability of each choice as the next text after each prompt's prefix, the whole choice summed.

        Returns:
            Shape ``(len(prompts), len(choices))``, each in [0, 1]; rows need not sum to 1, for the model may say
            something else. NaN where the server did not tell.

        Raises:
            BackendError: The model or the server failed for good.
        """
        raise BackendError(f"the backend '{self.name}' cannot score given answers")

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[Scored]:
        """``choose`` with counts of tokens: the server's, where it tells; else what ``overhead`` says.

        Raises:
            BackendError: The model or the server failed for good.
        """
        rows = self.choose(prompts, choices)
        return [Scored(row, self.overhead(prompt)) for prompt, row in zip(prompts, rows, strict=True)]

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

    def cancel(self) -> None:
        """Ends all calls of a server, from any thread: those under way and later ones raise ``HaltedError``.

        A model in this process is not told: its calls end by themselves.
        """
        return

    def provenance(self) -> dict[str, Any]:
        """What ran: backend, model, revision, dtype, device, library versions. Kept beside every result."""
        return {"backend": self.name}
