"""Guards that are language models: each is asked in its own format and answers in its own words.

The words that carry the verdict stand at a known place of the answer, so their probabilities are read there in one
forward pass (``choose``). A backend that cannot score generates the answer, which is parsed. The rest of the answer
(categories, reasons) is generated when an explanation is asked for, from the same beginning.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Any, ClassVar, Self

from libra_guard.backends.base import Backend, Prompt
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.windows import Windows, cut
from libra_guard.records import Conversation, Label, Method, Target, Verdict

LEFT_OUT = "an analysis that came to another label was left out"
"""Note of a verdict whose explanation contradicts it."""
LITTLE = 0.01
"""Share of the probability below which a model is not answering what it was asked."""


@dataclass(frozen=True)
class Reading:
    """What a whole answer says."""

    label: Label | None
    """None where it cannot be read."""
    categories: Mapping[str, float] = field(default_factory=dict)
    analysis: str | None = None


class GenerativeGuard(Guard):
    """Judges with a language model.

    A family fills in what it asks (``ask``), where and in which words the label stands (``opening``, ``choices``), and
    how a whole answer is read (``read``).

    The score is P(unsafe) + P(controversial) / 2, the labels' probabilities summing to 1. A text is unsafe where
    P(unsafe) reaches the threshold; controversial, in families that have this state, where it does so together with
    P(controversial). With a calibration both are calibrated first, and a text is controversial where the score alone
    reaches the threshold: what is flagged is then what the threshold was chosen for.

    Args:
        backend: One that can ``choose`` or ``generate``.
        threshold: See above.
        method: ``choose`` or ``generate``; by default the best that the backend can do.
        max_new_tokens: For generated text; by default the family's own.
        temperature: For generated text; 0 is greedy.
        seed: For sampling.

    Raises:
        UsageError: The backend can do neither, or a number makes no sense.
    """

    gives_scores = True
    answer_tokens: ClassVar[int] = 256
    """Tokens that a whole answer of this family takes."""

    def __init__(
        self,
        backend: Backend,
        *,
        threshold: float = 0.5,
        method: Method | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 42,
    ) -> None:
        super().__init__(backend, threshold=threshold)
        able = [m for m in (Method.CHOOSE, Method.GENERATE) if m in backend.capabilities]
        if not able or (method and method not in able):
            raise UsageError(f"the backend '{backend.name}' can {_list(backend.capabilities)}, not {_list([method])}")
        self.max_new_tokens = self.answer_tokens if max_new_tokens is None else max_new_tokens
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; an answer has at least 1 token")
        if not 0 <= temperature < inf:
            raise UsageError(f"temperature is {temperature}; it must be at least 0, which is greedy")
        self.method = method or able[0]
        # A generated label has no score.
        self.gives_scores = self.method is Method.CHOOSE
        self.temperature = temperature
        self.seed = seed

    def decoding(self, *, temperature: float, seed: int) -> Self:
        """This guard, on the same backend, with other settings for generated text; see ``__init__``."""
        other = copy(self)
        other.temperature, other.seed = temperature, seed
        return other

    @abstractmethod
    def ask(self, conversation: Conversation, *, prefix: str = "") -> Prompt:
        """What the model is asked, and how its answer is to begin."""

    @abstractmethod
    def choices(self, target: Target) -> Mapping[str, Label]:
        """The words that carry the label, and which they mean."""

    @abstractmethod
    def read(self, text: str, target: Target) -> Reading:
        """Reads a whole answer. What is not plainly said is unreadable, never guessed. Never raises."""

    def opening(self, target: Target) -> str:
        """How an answer begins, up to the words of ``choices``; by default with them."""
        return ""

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        asked = [repr(self.ask(pair, prefix=self.opening(pair.target))) for pair in _ANY if pair.target in self.targets]
        own = {"method": self.method.value, "prompt_sha256": hashlib.sha256("".join(asked).encode()).hexdigest()}
        decoding = {"max_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        return {**super().provenance(), **own, **decoding}

    def _windows(self, conversation: Conversation) -> Windows:
        if self.backend.context is None:
            return Windows([conversation])
        short = next(pair for pair in _ANY if pair.target is conversation.target)
        overhead = self.backend.overhead(self.ask(short, prefix=self.opening(conversation.target)))
        room = self.backend.context - overhead - self.max_new_tokens
        if self.multi_turn and sum(map(len, self.backend.spans([m.content for m in conversation.messages]))) <= room:
            return Windows([conversation])
        return cut(conversation, room, self.backend.spans)

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        if self.method is Method.GENERATE:
            return self._generate(conversations)
        verdicts: list[Verdict | None] = [None] * len(conversations)
        for target in dict.fromkeys(c.target for c in conversations):
            rows = [i for i, c in enumerate(conversations) if c.target is target]
            words = self.choices(target)
            prompts = [self.ask(conversations[i], prefix=self.opening(target)) for i in rows]
            for i, found in zip(rows, self.backend.choose(prompts, tuple(words)), strict=True):
                verdicts[i] = self._chosen(dict(zip(words, map(float, found), strict=True)), words, target)
        untold = [i for i, v in enumerate(verdicts) if v is None]
        if untold and Method.GENERATE in self.backend.capabilities:
            for i, verdict in zip(untold, self._generate([conversations[i] for i in untold]), strict=True):
                verdicts[i] = verdict
        return [v or Verdict(label=None, valid=False, method=Method.CHOOSE) for v in verdicts]

    def _chosen(self, found: Mapping[str, float], words: Mapping[str, Label], target: Target) -> Verdict | None:
        """The verdict that the words' probabilities make; None where the server did not tell them."""
        total = sum(found.values())
        if isnan(total) or total <= 0:
            return None
        shares = {label: sum(p for w, p in found.items() if words[w] is label) / total for label in Label}
        unsafe, doubtful = shares[Label.UNSAFE], shares[Label.CONTROVERSIAL]
        score = self._score(min(1.0, unsafe + doubtful / 2), target)
        label = self._label(self._score(unsafe, target), target)
        reached = score if self.calibration and self.calibration.of(target) else unsafe + doubtful
        if label is Label.SAFE and doubtful and self._label(reached, target) is Label.UNSAFE:
            label = Label.CONTROVERSIAL
        notes = () if total >= LITTLE else (f"the model gives its labels only {total:.2g} of its probability",)
        return Verdict(label=label, unsafe_score=score, method=Method.CHOOSE, notes=notes)

    def _generate(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        texts = self._texts([self.ask(c) for c in conversations])
        return [self._parsed(text, c.target) for text, c in zip(texts, conversations, strict=True)]

    def _parsed(self, text: str, target: Target) -> Verdict:
        found = self.read(text, target)
        return Verdict(
            label=found.label,
            categories=dict(found.categories),
            analysis=found.analysis,
            raw=text,
            valid=found.label is not None,
            method=Method.GENERATE,
        )

    def _texts(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.backend.generate(
            prompts, max_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed
        )

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        todo = [i for i, v in enumerate(verdicts) if v.label and v.raw is None]
        if not todo or Method.GENERATE not in self.backend.capabilities:
            return verdicts
        beginnings = [self._beginning(verdicts[i].label, conversations[i].target) for i in todo]
        prompts = [self.ask(conversations[i], prefix=b) for i, b in zip(todo, beginnings, strict=True)]
        explained = list(verdicts)
        for i, beginning, text in zip(todo, beginnings, self._texts(prompts), strict=True):
            found = self._read_begun(beginning, text, conversations[i].target)
            told: dict[str, Any] = {"raw": beginning + text, "analysis": found.analysis}
            if found.label is not verdicts[i].label:
                told = {"notes": (*verdicts[i].notes, LEFT_OUT)}
            elif found.categories:
                told["categories"] = dict(found.categories)
            explained[i] = verdicts[i].model_copy(update=told)
        return explained

    def _read_begun(self, beginning: str, text: str, target: Target) -> Reading:
        """Reads an answer whose beginning was given; empty where the model wrote all of it."""
        return self.read(beginning + text, target)

    def _beginning(self, label: Label | None, target: Target) -> str:
        """How an answer with this label begins; a server that cannot go on from a beginning writes its answer anew."""
        if not self.backend.continues:
            return ""
        word = next((word for word, meant in self.choices(target).items() if meant is label), "")
        return self.opening(target) + word


_ANY = (Conversation.from_pair("问"), Conversation.from_pair("问", "答"))


def _list(methods: Any) -> str:
    return " or ".join(sorted(m.value for m in methods if m)) or "choose or generate"
