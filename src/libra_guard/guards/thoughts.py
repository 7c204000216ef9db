"""What a reasoning model thinks before it answers, where its server does not keep that apart."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


def without_thoughts(text: str) -> str:
    """A model's text without a leading ``<think>`` block; nothing is left where that does not end."""
    return _BLOCK.sub("", text)
