"""DuoGuard: a sequence classifier with a sigmoid output for each of 12 categories.

Format: yihedeng9/DuoGuard, evaluation/test_single_input.py and evaluate_duoguard.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Backend
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.calibration import DIGITS
from libra_guard.guards.classifier import SPECIAL_TOKENS, probabilities
from libra_guard.guards.windows import Windows, cut
from libra_guard.records import Conversation, Method, Target, Verdict
from libra_guard.taxonomy import category_system

_SYSTEM = category_system("duoguard")


class DuoGuard(Guard):
    """Judges a question, an answer, or the pair; the score is that of the likeliest category.

    ``categories`` holds the probability of each category, whether or not the text is unsafe.

    Args:
        backend: One with ``logits``.
        threshold: Unsafe from this score on.

    Raises:
        UsageError: The model is no sequence classifier.
    """

    name = "duoguard"
    system = _SYSTEM
    gives_scores = True

    def __init__(self, backend: Backend, *, threshold: float = 0.5) -> None:
        super().__init__(backend, threshold=threshold)
        if Method.LOGITS not in backend.capabilities:
            raise UsageError(f"'{self.name}' needs a sequence classifier, and the model is none")

    def _windows(self, conversation: Conversation) -> Windows:
        if self.backend.context is None:
            return Windows([conversation])
        return cut(conversation, self.backend.context - SPECIAL_TOKENS, self.backend.spans)

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        logits = self.backend.logits([as_text(c) for c in conversations])
        if len(logits) and logits.shape[1] != len(_SYSTEM.codes):
            raise BackendError(f"the model has {logits.shape[1]} outputs, DuoGuard has {len(_SYSTEM.codes)}")
        pairs = zip(probabilities(logits), conversations, strict=True)
        return [self._verdict(row, conversation.target) for row, conversation in pairs]

    def _verdict(self, row: NDArray[np.float64], target: Target) -> Verdict:
        if not np.isfinite(row).all():
            # A comparison with NaN is false, which would read as safe.
            return Verdict(label=None, valid=False, method=Method.LOGITS, notes=("the model gave no numbers",))
        categories = {code: round(float(p), DIGITS) for code, p in zip(_SYSTEM.codes, row, strict=True)}
        score = self._score(max(categories.values()), target)
        label = self._label(score, target)
        return Verdict(label=label, unsafe_score=score, categories=categories, method=Method.LOGITS)


def as_text(conversation: Conversation) -> str:
    """What the classifier reads: one text, of a pair both with a space between them."""
    if conversation.response is None:
        return conversation.question
    return f"{conversation.question} {conversation.response}" if conversation.question else conversation.response
