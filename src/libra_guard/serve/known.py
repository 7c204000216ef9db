"""Verdicts on texts that stand in request after request, such as descriptions of tools."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from libra_guard.records import Conversation, Verdict
from libra_guard.serve.queue import Manner

MOST = 1000
"""Verdicts, of some kilobytes each."""


class Known:
    """What one guard said lately, by hashes of what it was asked: the texts are not kept, nor what is decided.

    Of more than ``MOST`` those go first that were not asked for longest.
    """

    def __init__(self) -> None:
        self._verdicts = OrderedDict[bytes, Verdict]()

    def get(self, conversation: Conversation, manner: Manner) -> Verdict | None:
        """The verdict on the very same, asked for in the same manner."""
        key = _key(conversation, manner)
        if key not in self._verdicts:
            return None
        self._verdicts.move_to_end(key)
        return self._verdicts[key]

    def add(self, conversation: Conversation, manner: Manner, verdict: Verdict) -> None:
        """Keeps a verdict, but for the model's own text; none that could not be read, for the next one may be."""
        if verdict.valid:
            self._verdicts[_key(conversation, manner)] = verdict.model_copy(update={"raw": None})
        if len(self._verdicts) > MOST:
            self._verdicts.popitem(last=False)


def _key(conversation: Conversation, manner: Manner) -> bytes:
    return hashlib.sha256(f"{manner} {conversation.model_dump_json()}".encode()).digest()
