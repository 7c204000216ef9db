"""Guards whose label stands behind words of the model's own: the answer is written, then the label scored in it.

One forward pass cannot tell such a label, for what stands before it is not known. So the answer is generated first,
and the label's words are scored at the place where it has one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from libra_guard.guards.generative import GenerativeGuard
from libra_guard.records import Conversation, Label, Method, Target, Verdict


class DeferredGuard(GenerativeGuard):
    """Scores the label at its place in an answer that was written before, from ``opening`` on.

    An answer that cannot be read stays unreadable: it has no such place.
    """

    closing: ClassVar[str] = ""
    """What follows the label in an answer that can be read."""

    @abstractmethod
    def deferred(self, target: Target) -> bool:
        """Whether words of the model's own stand before the label; where not, one pass scores it."""

    @abstractmethod
    def before_label(self, text: str, target: Target) -> str:
        """The beginning of a readable answer up to the words of ``choices``, foreign control tokens broken apart.

        Empty where it has no such place; the answer is taken as it was read then.
        """

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        if self.method is Method.GENERATE:
            return super()._judge(conversations)
        at_once = [i for i, c in enumerate(conversations) if not self.deferred(c.target)]
        verdicts = dict(zip(at_once, super()._judge([conversations[i] for i in at_once]), strict=True))
        for target in filter(self.deferred, dict.fromkeys(c.target for c in conversations)):
            rows = [i for i, c in enumerate(conversations) if c.target is target]
            verdicts |= zip(rows, self._score_written([conversations[i] for i in rows], target), strict=True)
        return [verdicts[i] for i in range(len(conversations))]

    def _score_written(self, conversations: Sequence[Conversation], target: Target) -> list[Verdict]:
        # A server that cannot go on from a beginning finds its own.
        opening = self.opening(target) if self.backend.continues else ""
        texts = self._texts([self.ask(c, prefix=opening) for c in conversations])
        verdicts = [self._parsed(opening + text, target) for text in texts]
        places = {i: self.before_label(v.raw or "", target) for i, v in enumerate(verdicts) if v.label}
        beginnings = {i: beginning for i, beginning in places.items() if beginning}
        words = self.choices(target)
        prompts = [self.ask(conversations[i], prefix=beginning) for i, beginning in beginnings.items()]
        scores = self.backend.choose(prompts, tuple(words))
        for (i, beginning), row in zip(beginnings.items(), scores, strict=True):
            if chosen := self._chosen(dict(zip(words, map(float, row), strict=True)), words, target):
                verdicts[i] = chosen.model_copy(update=self._told(verdicts[i], chosen, beginning, words))
        return verdicts

    def _told(self, written: Verdict, chosen: Verdict, beginning: str, words: Mapping[str, Label]) -> dict[str, Any]:
        """What the written answer adds to the scored label."""
        told: dict[str, Any] = {"analysis": written.analysis}
        if chosen.label is written.label:
            return told | {"raw": written.raw, "categories": written.categories}
        # What is read from the text later is the verdict, wherever the threshold stands.
        word = next(word for word, meant in words.items() if meant is chosen.label)
        return told | {"raw": beginning + word + self.closing}
