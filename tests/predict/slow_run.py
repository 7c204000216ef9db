"""Runs a guard over a file, slowly, so that it can be killed on its way.

python slow_run.py DATA OUT CHUNK SECONDS
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.predict.runner import Settings, run
from libra_guard.records import Conversation, Method, Verdict


class TogetherGuard(Guard):
    """Scores depend on all the texts that are judged together, as in a batch of a quantised model.

    A text with 坏行 fails, one with 错行 is refused, one with 不明 cannot be read.
    """

    name = "together"

    def __init__(self, seconds: float = 0) -> None:
        super().__init__(ScriptedBackend(logits=[]))
        self.seconds = seconds
        self.judged: list[list[str]] = []

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        texts = [c.response or c.question for c in conversations]
        self.judged.append(texts)
        time.sleep(self.seconds)
        if any("坏行" in text for text in texts):
            raise BackendError("the model failed")
        if any("错行" in text for text in texts):
            raise UsageError("no room for the text")
        return [self._verdict(text, "".join(texts)) for text in texts]

    def _verdict(self, text: str, together: str) -> Verdict:
        if "不明" in text:
            return Verdict(label=None, valid=False, raw="\ud800?", method=Method.GENERATE)
        score = int(hashlib.sha256((text + together).encode()).hexdigest()[:8], 16) / 2**32
        return Verdict(label=self._label(score), unsafe_score=score, method=Method.LOGITS)

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        return [v.model_copy(update={"analysis": "因为\u2028如此"}) for v in verdicts]


if __name__ == "__main__":
    run(
        TogetherGuard(float(sys.argv[4])),
        Settings(data=sys.argv[1], out=Path(sys.argv[2]), chunk=int(sys.argv[3]), explain=True),
    )
