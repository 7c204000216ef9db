"""Classifier guards: one unsafe logit and one for each category, by default Libra's scenarios, as the model says.

Two members of the family ship their weights as ONNX: ``mini``, the bundled guard, and ``ngram:PATH``, its baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Backend, Text
from libra_guard.backends.classifier_config import ClassifierConfig
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.calibration import DIGITS
from libra_guard.guards.normalise import normalise, quotable, written
from libra_guard.guards.rendering import template
from libra_guard.guards.sentences import split_sentences
from libra_guard.guards.windows import Windows, cut
from libra_guard.records import Conversation, Label, Method, Target, Verdict

LANGUAGES = ("zh", "en")
SPECIAL_TOKENS = 8
"""Room for the tokens that a tokenizer puts around a pair."""


class ClassifierGuard(Guard):
    """Judges a question, an answer, or the pair, by a classifier's sigmoid outputs.

    The backend's ``config`` names the outputs in order (``labels``: ``unsafe``, then the categories of a ``system``, by
    default Libra's scenarios, or its trainer's own) and the calibrated ``threshold``, with a ``question_threshold`` for
    questions judged by themselves. ``categories`` holds every category's own probability, whether or not the text is
    unsafe.

    The analysis is evidence, not generated text: the sentence whose removal lowers the unsafe score most (occlusion,
    Zeiler and Fergus 2014, arXiv:1311.2901), as it was written, and the categories above the threshold.

    Args:
        backend: One with ``logits`` and a ``config``.
        threshold: Unsafe from this score on; by default the model's own.
        language: Of the analysis: ``zh`` or ``en``.

    Raises:
        UsageError: The model's labels are not those of such a classifier, another value in its ``config`` is wrong,
            or the language is unknown.
    """

    gives_scores = True

    def __init__(self, backend: Backend, *, threshold: float | None = None, language: str = "zh") -> None:
        folder = getattr(backend, "folder", None)
        where = f"{folder / 'config.json'}" if folder else "the model's config.json"
        config = ClassifierConfig.of(getattr(backend, "config", {}), where)
        self.system = config.system_of_labels(where)
        if language not in LANGUAGES:
            raise UsageError(f"the analysis is written in {' or '.join(LANGUAGES)}, not '{language}'")
        super().__init__(backend, threshold=config.threshold if threshold is None else threshold)
        # A threshold of the caller's own holds for questions too.
        own = config.question_threshold if threshold is None else None
        self.question_threshold = self.threshold if own is None else own
        self.outputs = tuple(config.labels[1:])
        self.bias = np.array(config.logit_bias or 0.0)
        self.scenario_threshold = config.scenario_threshold
        self.language = language

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        own = {"question_threshold": self.question_threshold, "language": self.language}
        return {**super().provenance(), **own}

    def _windows(self, conversation: Conversation) -> Windows:
        conversation = normalised(conversation)
        if self.backend.context is None:
            return Windows([conversation])
        return cut(conversation, self.backend.context - SPECIAL_TOKENS, self.backend.spans)

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        rows = self._probabilities([as_text(c) for c in conversations])
        return [self._verdict(row, c.target) for row, c in zip(rows, conversations, strict=True)]

    def _probabilities(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        logits = self.backend.logits(texts)
        if len(logits) and logits.shape[1] != 1 + len(self.outputs):
            raise BackendError(f"the model has {logits.shape[1]} outputs, its config {1 + len(self.outputs)} labels")
        return probabilities(logits + self.bias)

    def _verdict(self, row: NDArray[np.float64], target: Target) -> Verdict:
        if not np.isfinite(row).all():
            # A comparison with NaN is false, which would read as safe.
            return Verdict(label=None, valid=False, method=Method.LOGITS, notes=("the model gave no numbers",))
        score = self._score(round(float(row[0]), DIGITS), target)
        categories = {name: round(float(p), DIGITS) for name, p in zip(self.outputs, row[1:], strict=True)}
        label = self._label(score, target)
        return Verdict(label=label, unsafe_score=score, categories=categories, method=Method.LOGITS)

    def _deciding(self, conversation: Conversation, piece: Conversation) -> Conversation:
        """See ``Guard._deciding``: the text as it was written, for evidence is quoted from it."""
        judged, read = _judged(conversation), _judged(piece)
        whole = normalise(judged)
        if read != whole:
            start = whole.find(read)
            judged = written(judged, start, start + len(read))
        return with_judged(piece, judged)

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        return [
            v.model_copy(update={"analysis": self._analysis(c, v)}) if v.valid else v
            for c, v in zip(conversations, verdicts, strict=True)
        ]

    def _analysis(self, conversation: Conversation, verdict: Verdict) -> str:
        score = verdict.unsafe_score or 0.0
        evidence, without = self._evidence(conversation, score) if verdict.label is Label.UNSAFE else ("", score)
        found = sorted((p, n) for n, p in verdict.categories.items() if p >= self.scenario_threshold)
        return template(f"mini_analysis.{self.language}.j2").render(
            judged=conversation.target.value,
            label=verdict.label,
            score=score,
            threshold=self.threshold_for(conversation.target),
            scenarios=[self._spoken(name) for _, name in reversed(found)],
            evidence=quotable(evidence),
            without=without,
        )

    def _spoken(self, output: str) -> str:
        """A category's name in the language of the analysis; a trainer's own as it is."""
        if self.system is None:
            return output
        category = self.system.find(output)
        return category.name_zh if self.language == "zh" else category.name

    def _evidence(self, conversation: Conversation, score: float) -> tuple[str, float]:
        """The sentence that the score leans on most, and the score without it; empty where there is none."""
        judged = _judged(conversation)
        read = normalise(judged)
        found = split_sentences(read)
        if len(found) < 2:
            return "", score
        texts = [as_text(with_judged(conversation, read[: one.start] + read[one.end :])) for one in found]
        scores = self._probabilities(texts)[:, 0]
        least = int(np.argmin(scores))
        without = self._score(round(float(scores[least]), DIGITS), conversation.target)
        if without >= score:
            return "", score
        return written(judged, *found[least]), without


class MiniGuard(ClassifierGuard):
    """Libra-Guard-Mini, the guard that ships inside the package."""

    name = "mini"


class NgramGuard(ClassifierGuard):
    """Logistic regression over hashed character n-grams: the baseline that is hard to beat."""

    name = "ngram"


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic function, of any shape; NaN stays NaN."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -40, 40))))


def as_text(conversation: Conversation) -> Text:
    """What the classifier reads: the question alone, or the pair (an empty question where the assistant began)."""
    if conversation.target is Target.PROMPT:
        return conversation.question
    return (conversation.question, conversation.response or "")


def normalised(conversation: Conversation) -> Conversation:
    """The last exchange as the classifier was trained to read it; a text that can be judged keeps something visible."""
    question, response = conversation.question, conversation.response
    question = normalise(question)
    if response is not None and conversation.question:
        return Conversation.from_pair(question, normalise(response))
    if response is not None:
        return with_judged(conversation, normalise(response))
    return Conversation.from_pair(question)


def with_judged(conversation: Conversation, text: str) -> Conversation:
    """The same conversation with another last message."""
    last = conversation.messages[-1].model_copy(update={"content": text})
    return Conversation.model_construct(messages=(*conversation.messages[:-1], last))


def _judged(conversation: Conversation) -> str:
    return conversation.messages[-1].content
