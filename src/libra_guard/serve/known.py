"""Verdicts on texts that stand in request after request, such as descriptions of tools."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict

from libra_guard.records import Conversation, Verdict
from libra_guard.serve.queue import Manner

MOST = 1000
"""Verdicts, of some kilobytes each."""
KEPT_SECONDS = 600.0
"""Since it was made, however often it is asked for: a model may have said safe by chance."""


class Known:
    """What one guard said lately, by hashes of what it was asked: the texts are not kept, nor what is decided.

    None is older than ``KEPT_SECONDS``; of more than ``MOST`` those go first that were not asked for longest.
    """

    def __init__(self) -> None:
        self._verdicts = OrderedDict[bytes, tuple[float, Verdict]]()

    def get(self, conversation: Conversation, manner: Manner) -> Verdict | None:
        """The verdict on the very same, asked for in the same manner."""
        key = _key(conversation, manner)
        made, verdict = self._verdicts.pop(key, (0.0, None))
        if verdict is None or time.monotonic() - made >= KEPT_SECONDS:
            return None
        self._verdicts[key] = made, verdict
        return verdict

    def add(self, conversation: Conversation, manner: Manner, verdict: Verdict) -> None:
        """Keeps a verdict, but for the model's own text; none that could not be read, for the next one may be."""
        if verdict.valid:
            kept = verdict.model_copy(update={"raw": None})
            self._verdicts[_key(conversation, manner)] = time.monotonic(), kept
        if len(self._verdicts) > MOST:
            self._verdicts.popitem(last=False)


def _key(conversation: Conversation, manner: Manner) -> bytes:
    return hashlib.sha256(f"{manner} {conversation.model_dump_json()}".encode()).digest()
